"""What is shown of an address, and what never is."""

import pytest

from serving.redaction import redacted, without_secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://me:s3cret@host:5432/m", "postgresql+psycopg2://host:5432/m"),
        ("postgresql://u:s3cret/w@h/db", "postgresql://h/db"),
        ("postgresql://u:s3cret@ss@h/db", "postgresql://h/db"),
        ("postgresql://u:p@s3cret/ss@h/db", "postgresql://h/db"),
        ("postgresql://u:p@s3cret#1@h/db", "postgresql://h/db"),
        ("postgresql://u:s3cret?w@h/db", "postgresql://h/db"),
        ("postgresql://u:s3cret?key=w@h/db", "postgresql://***"),
        ("postgresql://u:12/3@h/db", "postgresql://h/db"),
        ("postgresql://u:s3cret w@h/db", "postgresql://h/db"),
        ("postgresql://user@h/db", "postgresql://h/db"),
        ("postgresql://corp/user:s3cret@h/db", "postgresql://h/db"),
        ("postgresql://user@h/db?password=s3cret@ss", "postgresql://h/db?password=***"),
        ("postgresql+psycopg2://h/db?user=u&password=s3cret", "postgresql+psycopg2://h/db?user=u&password=***"),
        ("mysql://host/m?user=me&password=s3cret&ssl=1", "mysql://host/m?user=me&password=***&ssl=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Ds3cret", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://u:s3cret@[::1]:5000/x", "http://[::1]:5000/x"),
        (
            "https://h/x?X-Amz-Signature=s3cret&X-Amz-Credential=s3cret",
            "https://h/x?X-Amz-Signature=***&X-Amz-Credential=***",
        ),
        ("https://h/x?sv=1&sig=s3cret", "https://h/x?sv=1&sig=***"),
        ("https://h/x?access_token=s3cret#a", "https://h/x?access_token=***"),
        (
            "https://h/x?AWSAccessKeyId=s3cret&api_key=s3cret&KEY=s3cret",
            "https://h/x?AWSAccessKeyId=***&api_key=***&KEY=***",
        ),
        ("simplecache::ftp://user:s3cret@host/x", "simplecache::ftp://host/x"),
    ],
)
def test_user_password_and_what_may_be_a_secret_are_taken_out(uri: str, shown: str) -> None:
    assert redacted(uri) == shown
    assert "s3cret" not in redacted(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000",
        "http://host:5000/models/a@1/b",
        "http://[::1]:5000/a@1",
        "https://h/x?mail=a@b",
        "postgresql+psycopg2://h1:5432,h2:5432/db?application_name=a@b",
        "postgresql://h/db?sslkey=/keys/k.pem&passfile=/keys/pass",
        "mysql+pymysql://h/db?read_default_file=/keys/my.cnf",
        "sqlite:////a/b@c.db",
        "sqlite:///C:/a/b@c.db",
        "sqlite:///file:/x/b@c.db?mode=ro&uri=true",
        "file:///a:b@c",
        "s3://bucket/a@1/b.csv",
        "models:/m@champion",
        "no address at all: a@b",
    ],
)
def test_an_address_without_secrets_is_shown_as_it_is(uri: str) -> None:
    assert redacted(uri) == without_secrets(uri) == uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:s3cret@host and a@b", "at http://host and a@b"),
        ("two: http://a:s3cret@b/c and http://d:s3cret@e/f", "two: http://b/c and http://e/f"),
        ("'http://a:s3cret@b','http://d:s3cret@e'", "'http://b','http://e'"),
        ("zip://a.csv::https://u:s3cret@h/x.zip", "zip://a.csv::https://h/x.zip"),
        ("at postgresql://u:my s3cret@db/x, again", "at postgresql://db/x, again"),
        ("postgresql://u:s3 c ret@db/x\nand a@b", "postgresql://db/x\nand a@b"),
        ("at http://host:5000: refused, ask a@b", "at http://host:5000: refused, ask a@b"),
        ("'http://host:5000' and http://[::1], a@b", "'http://host:5000' and http://[::1], a@b"),
        ("url: https://h/x?token=s3cret, again", "url: https://h/x?token=*** again"),
        ("host=h password=s3cret dbname=m", "host=h password=*** dbname=m"),
        ("DRIVER=x;UID=me;PWD=s3cret;APP=m", "DRIVER=x;UID=me;PWD=***;APP=m"),
    ],
)
def test_every_address_in_a_text_loses_its_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://u:s3cret@h/x?a=1#b", "https://h/x"),
        ("s3://bucket/part-?.parquet?versionId=1", "s3://bucket/part-?.parquet"),
    ],
)
def test_parameters_can_be_left_out_altogether(uri: str, shown: str) -> None:
    assert redacted(uri, queries=False) == without_secrets(uri, queries=False) == shown


@pytest.mark.parametrize("long", ["a" * 500_000, "a-" * 250_000, "?a=" * 150_000])
def test_a_long_text_is_read_once(long: str) -> None:
    assert without_secrets(f"{long} http://u:p@h") == f"{long} http://h"
    assert without_secrets(f"http://h/{long}") == f"http://h/{long}"
