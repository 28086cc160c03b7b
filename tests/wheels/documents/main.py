"""Documents made, read and changed: PDF by five libraries, Word, a spreadsheet, a QR code."""

import io

import docx
import pdfplumber
import pikepdf
import pymupdf
import pypdf
import qrcode
import xlsxwriter
from reportlab.pdfgen import canvas


def pdf():
    """Return two pages with a word each."""
    out = io.BytesIO()
    page = canvas.Canvas(out)
    for word in ("gentoo", "adelie"):
        page.drawString(100, 700, word)
        page.showPage()
    page.save()
    return io.BytesIO(out.getvalue())


def read():
    with pdfplumber.open(pdf()) as plumbed, pikepdf.open(pdf()) as piked, pymupdf.open(stream=pdf().getvalue()) as opened:
        texts = [page.extract_text().strip() for page in pypdf.PdfReader(pdf()).pages]
        pixels = opened[0].get_pixmap(dpi=50)
        return [texts, plumbed.pages[1].extract_text(), len(piked.pages), opened[1].get_text().strip(), pixels.width > 100]


def change():
    writer = pypdf.PdfWriter()
    writer.append(pdf(), pages=(1, 2))
    writer.encrypt("secret")
    out = io.BytesIO()
    writer.write(out)
    again = pypdf.PdfReader(out)
    return [bool(again.decrypt("secret")), again.pages[0].extract_text().strip()]


def word():
    made = docx.Document()
    made.add_heading("Birds", 1)
    made.add_table(rows=1, cols=2).rows[0].cells[1].text = "cell"
    made.save("/tmp/x.docx")
    again = docx.Document("/tmp/x.docx")
    return [again.paragraphs[0].text, again.tables[0].rows[0].cells[1].text]


def sheet():
    with xlsxwriter.Workbook("/tmp/x.xlsx") as book:
        page = book.add_worksheet()
        page.write_row(0, 0, [1, 2, 3])
        chart = book.add_chart({"type": "line"})
        chart.add_series({"values": "=Sheet1!$A$1:$C$1"})
        page.insert_chart("A3", chart)
    with open("/tmp/x.xlsx", "rb") as file:
        return file.read(2).decode()


def code():
    made = qrcode.QRCode(border=0)
    made.add_data("https://example.org")
    made.make()
    return len(made.get_matrix())


def handler(event, context):
    return globals()[event["case"]]()
