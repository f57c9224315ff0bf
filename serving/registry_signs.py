"""The words by which a registry's failure is known, what they mean, and the way out of each.

They are looked for in the order in which they stand here.
"""

from typing import Final, NamedTuple

from serving.errors import BadRequest, Failure, Transient

ANOTHER: Final = "name another with register.tracking_uri or --tracking-uri"
AGAIN: Final = "run again: finished work is kept"
_AWAY: Final = f"the registry {{{{uri}}}} cannot be reached ({{what}}); start it, or {ANOTHER}, then {AGAIN}"


class Sign(NamedTuple):
    """Words that tell what went wrong; `told` has {uri} and {found}, the words as they were found."""

    words: str
    kind: type[Failure]
    told: str


SIGNS: Final = (
    Sign(
        r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|AccessDenied|Access Denied(?! for user)|"
        r"AWS Access Key Id|request signature we calculated|Unable to locate credentials|\(403\) when calling",
        BadRequest,
        "the artifact store of the registry {uri} refuses these credentials ({found}); set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, and MLFLOW_S3_ENDPOINT_URL where it is not Amazon's, here or, where the server serves "
        "artifacts, there",
    ),
    Sign(
        r"NoSuchBucket|specified bucket does not exist",
        BadRequest,
        "the artifact store of the registry {uri} lacks the bucket ({found}); make it, or serve another",
    ),
    Sign(
        r"No space left on device|Disk quota exceeded|database or disk is full|InsufficientStorage|StorageFull|"
        r"QuotaExceeded|ServiceUnavailable|SlowDown",
        Transient,
        "the registry {uri} or its artifact store is full or overloaded ({found}); make room there, then " + AGAIN,
    ),
    Sign(
        r"readonly database|read-only transaction|Read-only file system|permission denied for \w+ \w+",
        BadRequest,
        "the registry {uri} cannot be written ({found}); use an account that may write, or " + ANOTHER,
    ),
    Sign(
        r"unable to open database file",
        BadRequest,
        "the registry {uri} cannot be opened ({found}); look at its folder and who may write there, or " + ANOTHER,
    ),
    Sign(
        r"file is not a database",
        BadRequest,
        "the registry {uri} is no database of MLflow ({found}); " + ANOTHER,
    ),
    Sign(
        r"password authentication failed|no password supplied|authentication failed for user|no pg_hba.conf entry|"
        r'role "[^"]*" does not exist',
        BadRequest,
        "the database of the registry {uri} refuses these credentials ({found}); set PGUSER and PGPASSWORD",
    ),
    Sign(
        r"Access denied for user",
        BadRequest,
        "the database of the registry {uri} refuses these credentials ({found}); write user and password under "
        "[client] into a file, and add ?read_default_file=FILE to the registry's address",
    ),
    Sign(
        r'database "[^"]*" does not exist|Unknown database',
        BadRequest,
        "the registry {uri} is not there ({found}); make it (createdb), or " + ANOTHER,
    ),
    Sign(
        r"out-of-date database schema|Can't locate revision identified by '?\w+'?|"
        r"no such (?:table|column): \w+|(?:relation|column) \S+ does not exist",
        BadRequest,
        "the registry {uri} has tables of another MLflow than this one ({found}); of an older one, back it up and run "
        "`mlflow db upgrade` on it; of a newer one, install that MLflow",
    ),
    Sign(
        r"database is locked|deadlock detected|could not serialize access|too many clients|Giving up after",
        Transient,
        "the registry {uri} is busy with others ({found}); " + AGAIN,
    ),
    Sign(
        r"(?:No module named|import of) '?psycopg2?'?",
        BadRequest,
        "the registry {uri} needs a driver that is not installed ({found}); run pip install 'retort[postgresql]'",
    ),
    Sign(
        r"(?:No module named|import of) '?boto(?:3|core)'?",
        BadRequest,
        "the artifact store of the registry {uri} needs boto3 ({found}); run pip install 'retort[s3]'",
    ),
    Sign(
        r"(?:No module named|import of) '?[\w.]+'?|\S+: cannot open shared object file",
        BadRequest,
        "the registry {uri} or its artifact store needs a package that is not installed ({found}); install it",
    ),
    Sign(
        r"Can't load plugin: sqlalchemy\S+|unsupported URI|Could not find a registered artifact repository|"
        r"Could not parse SQLAlchemy URL|Invalid url",
        BadRequest,
        "the registry {uri} is of a kind that MLflow does not know ({found}); write sqlite:///FILE, "
        "postgresql+psycopg2://HOST/NAME or http(s)://HOST",
    ),
    Sign(
        r"Invalid Host header",
        BadRequest,
        "the MLflow server {uri} does not answer to this name of it ({found}); start it with --allowed-hosts",
    ),
    Sign(
        r"not in a valid JSON format",
        BadRequest,
        "{uri} answers, and is no MLflow server ({found}); " + ANOTHER,
    ),
    Sign(
        r"Could not connect to the endpoint URL|timeout on endpoint URL|Connection was closed before we received",
        Transient,
        "the artifact store of the registry {uri} cannot be reached ({found}); start it, or set MLFLOW_S3_ENDPOINT_URL "
        "to where it is, then " + AGAIN,
    ),
    Sign(
        r"Connection refused|could not translate host name|Name or service not known|No address associated with|"
        r"Temporary failure in name resolution|timed out|timeout expired|Connection reset|RemoteDisconnected|"
        r"Connection aborted|Connection broken|server closed the connection|the database system is \w+|Broken pipe|"
        r"Network is unreachable|No route to host|certificate verify failed|IncompleteRead",
        Transient,
        _AWAY.format(what="{found}"),
    ),
)
BY_STATUS: Final = {
    401: (
        BadRequest,
        "the registry {uri} refuses these credentials (HTTP 401); set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    403: (
        BadRequest,
        "the registry {uri} forbids this (HTTP 403): these credentials may only read, or are wrong; set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of an account that may write",
    ),
    405: (BadRequest, "the registry {uri} cannot be written (HTTP 405): it is read-only; " + ANOTHER),
    502: (Transient, _AWAY.format(what="HTTP 502")),
    503: (Transient, _AWAY.format(what="HTTP 503")),
    504: (Transient, _AWAY.format(what="HTTP 504")),
    507: (Transient, "the registry {uri} or its artifact store is full (HTTP 507); make room there, then " + AGAIN),
}
