"""A Django project in one file under the function's own URL: routes, templates, sessions, models on SQLite in /tmp."""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection, models
from django.http import HttpResponse, JsonResponse
from django.template import Context, Template
from django.urls import path, reverse

settings.configure(
    SECRET_KEY="for these tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/tmp/site.db"}},
    INSTALLED_APPS=[],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.security.SecurityMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
django.setup()


class Bird(models.Model):
    species = models.CharField(max_length=20)

    class Meta:
        app_label = "birds"

    def __str__(self):
        return self.species


def index(request):
    return HttpResponse(Template("<b>{{ name }}</b>").render(Context({"name": "<Ada>"})))


def birds(request):
    if Bird._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Bird)
    Bird.objects.all().delete()
    for species in ("gentoo", "adelie"):
        Bird.objects.create(species=species)
    return JsonResponse({"birds": list(Bird.objects.order_by("species").values_list("species", flat=True)), "here": reverse("birds")})


async def echo(request):
    return JsonResponse({"method": request.method, "query": request.GET.get("q"), "body": request.body.decode()})


urlpatterns = [path("", index), path("birds", birds, name="birds"), path("echo", echo)]
app = get_asgi_application()
