"""Everything a client can be told.

ParamemError
├── ConnectionError          nobody answered, or the answer broke off; tells the URL and what to do
├── ProtocolError            somebody answered, but not paramem
├── WaitTimeoutError         a job did not end in time; carries the job
├── JobFailedError           a job ended without a memory; carries the job
└── APIError                 the server refused; carries status, code, message, param, request_id
    ├── BadRequestError      400, 422
    ├── AuthenticationError  401, 403
    ├── NotFoundError        404
    ├── ConflictError        409
    ├── TooLargeError        413
    ├── OverloadedError      429; carries retry_after_s
    ├── UnavailableError     503; carries retry_after_s
    └── DiskFullError        507
"""

from __future__ import annotations

from clients.results import Job


class ParamemError(Exception):
    """Base of everything the clients raise."""


class ConnectionError(ParamemError):
    """The request may or may not have arrived."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no answer from {url} ({reason}); start a server with `paramem up`, "
            "or set PARAMEM_URL to where one listens"
        )
        self.url = url


class ProtocolError(ParamemError):
    """The answer is not one of paramem's."""


class WaitTimeoutError(ParamemError):
    def __init__(self, job: Job, timeout_s: float) -> None:
        super().__init__(
            f"job {job.job_id} is still {job.status} after {timeout_s:g} s; it goes on, "
            f"look again with `paramem jobs show {job.job_id}`"
        )
        self.job = job


class JobFailedError(ParamemError):
    def __init__(self, job: Job) -> None:
        why = f": {job.error.message} ({job.error.code})" if job.error else ""
        super().__init__(f"job {job.job_id} of document {job.document_id!r} {job.status}{why}")
        self.job = job


class APIError(ParamemError):
    """The server refused. ``status`` is None when the error came inside a stream."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "unknown",
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f"{self.param}: " if self.param and self.param not in self.message else ""
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{where}{self.message} ({self.code}{request})"


class BadRequestError(APIError):
    pass


class AuthenticationError(APIError):
    pass


class NotFoundError(APIError):
    pass


class ConflictError(APIError):
    pass


class TooLargeError(APIError):
    pass


class OverloadedError(APIError):
    pass


class UnavailableError(APIError):
    pass


class DiskFullError(APIError):
    pass


BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: BadRequestError,
    429: OverloadedError,
    503: UnavailableError,
    507: DiskFullError,
}
