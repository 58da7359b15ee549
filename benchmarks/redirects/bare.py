"""The measure of all things here: a Starlette route that redirects, and does nothing else."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route


async def redirect(request: Request) -> RedirectResponse:
    return RedirectResponse(
        f"https://shop.test/start?publisher={request.path_params['publisher']}", 302
    )


app = Starlette(routes=[Route("/c/{program}/{publisher}", redirect)])

if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        server_header=False,
        log_level="warning",
    )
