"""AWS clients built without a network: presigned addresses, own errors."""

import time
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ParamValidationError
from botocore.stub import Stubber

KEYS = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "example", "region_name": "eu-west-1"}


def presigned():
    client = boto3.client("s3", **KEYS, config=Config(signature_version="s3v4"))
    parts = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": "birds", "Key": "a b.csv"}, ExpiresIn=60))
    query = parse_qs(parts.query)
    return [parts.netloc, parts.path, query["X-Amz-Expires"][0], len(query["X-Amz-Signature"][0])]


def unreachable():
    client = boto3.client("dynamodb", **KEYS, config=Config(retries={"max_attempts": 0}, connect_timeout=30))
    started = time.monotonic()
    try:
        client.list_tables()
    except EndpointConnectionError as error:
        return [type(error).__name__, time.monotonic() - started < 10]
    return "reached"


def errors():
    told = []
    try:
        boto3.client("s3", region_name="eu-west-1").list_buckets()
    except NoCredentialsError as error:
        told.append(type(error).__name__)
    try:
        boto3.client("sqs", **KEYS).send_message(QueueUrl=7)
    except ParamValidationError as error:
        told.append(type(error).__name__)
    return told


def stubbed():
    client = boto3.client("sts", **KEYS)
    with Stubber(client) as stub:
        stub.add_response("get_caller_identity", {"Account": "123456789012"})
        return client.get_caller_identity()["Account"]


def handler(event, context):
    return globals()[event["case"]]()
