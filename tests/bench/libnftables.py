"""The peer in process: the library behind nft(8), through ctypes, one call one transaction."""

import ctypes

from .cost import NotMeasured

_NAME = "libnftables.so.1"


class Library:
    """A context of the library, in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        """Load it; raises NotMeasured where it is not installed."""
        try:
            library = ctypes.CDLL(_NAME)
        except OSError as error:
            raise NotMeasured(f"{_NAME}: {error}") from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library = library
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_buffer_output(self._context)

    def close(self) -> None:
        """Give the context and its socket back."""
        self._library.nft_ctx_free(self._context)

    def run(self, text: str) -> None:
        """Do what the text says, all of it or nothing; raises NotMeasured with the reason."""
        if self._library.nft_run_cmd_from_buffer(self._context, text.encode()):
            said = self._library.nft_ctx_get_error_buffer(self._context)
            raise NotMeasured(f"{_NAME}: {(said or b'').decode(errors='replace').strip()}")
