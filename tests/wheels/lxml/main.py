"""XML and HTML: parsed, asked, transformed, checked."""

from lxml import etree, html

BIRDS = b"<birds><bird mass='5076'>gentoo</bird><bird mass='3701'>adelie</bird></birds>"
SHEET = b"""<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:output method="text"/>
<xsl:template match="/"><xsl:for-each select="//bird"><xsl:sort select="."/><xsl:value-of select="."/>;</xsl:for-each></xsl:template></xsl:stylesheet>"""
SCHEMA = b"""<grammar xmlns="http://relaxng.org/ns/structure/1.0"><start><element name="birds"><oneOrMore><element name="bird">
<attribute name="mass"/><text/></element></oneOrMore></element></start></grammar>"""


def xpath():
    return etree.fromstring(BIRDS).xpath("//bird[@mass > 4000]/text()")


def xslt():
    return str(etree.XSLT(etree.fromstring(SHEET))(etree.fromstring(BIRDS))).strip()


def schema():
    checked = etree.RelaxNG(etree.fromstring(SCHEMA))
    return [checked.validate(etree.fromstring(BIRDS)), checked.validate(etree.fromstring(b"<birds/>"))]


def broken():
    page = html.fromstring("<p>one<p>two <a href='/x'>y</a>")
    page.make_links_absolute("http://example.org/")
    try:
        etree.fromstring(b"<a><b></a>")
    except etree.XMLSyntaxError as error:
        return [page.xpath("//a/@href"), type(error).__name__]
    return "parsed"


def secrets():
    """An entity that names a file of the system gives nothing of it."""
    text = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/shadow">]><a>&x;</a>'
    return "root" in "".join(etree.fromstring(text, etree.XMLParser(resolve_entities=False)).itertext())


def handler(event, context):
    return globals()[event["case"]]()
