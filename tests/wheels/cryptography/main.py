"""Signatures, sealed messages, certificates, passwords, tokens."""

import datetime
import os

import bcrypt
import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID


def sign():
    told = []
    key = ed25519.Ed25519PrivateKey.generate()
    signature = key.sign(b"text")
    key.public_key().verify(signature, b"text")
    try:
        key.public_key().verify(signature, b"other")
    except InvalidSignature as error:
        told.append(type(error).__name__)
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sealed = numbers.public_key().encrypt(b"rsa", padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    return [*told, numbers.decrypt(sealed, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)).decode()]


def seal():
    key, nonce = AESGCM.generate_key(256), os.urandom(12)
    sealed = AESGCM(key).encrypt(nonce, b"text", b"head")
    try:
        AESGCM(key).decrypt(nonce, sealed, b"other head")
    except InvalidTag as error:
        refused = type(error).__name__
    token = Fernet(Fernet.generate_key())
    return [AESGCM(key).decrypt(nonce, sealed, b"head").decode(), refused, token.decrypt(token.encrypt(b"fernet")).decode()]


def certificate():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    again = x509.load_pem_x509_certificate(made.public_bytes(serialization.Encoding.PEM))
    again.verify_directly_issued_by(made)
    return [again.subject.rfc4514_string(), again.serial_number]


def passwords():
    kept = bcrypt.hashpw(b"secret", bcrypt.gensalt(4))
    token = jwt.encode({"sub": "ada"}, "a key that is long enough for this use", algorithm="HS256")
    return [bcrypt.checkpw(b"secret", kept), bcrypt.checkpw(b"wrong", kept), jwt.decode(token, "a key that is long enough for this use", algorithms=["HS256"])["sub"]]


def handler(event, context):
    return globals()[event["case"]]()
