import os, errno
from hstreamlite._native import ffi, lib
from hstreamlite.errors import StoreLocked
class Files:
    def __init__(self, io): self.io = io
    def _ck(self, rc, path=None):
        if rc < 0: raise OSError(-rc, os.strerror(-rc), path)
        return rc
    def open(self, path, flags): return self._ck(self.io.open(self.io.ctx, path.encode(), flags), path)
    def close(self, fd): self._ck(self.io.close(self.io.ctx, fd))
    def exists(self, path):
        fd = self.io.open(self.io.ctx, path.encode(), 1)
        if fd == -errno.ENOENT: return False
        if fd >= 0: self.close(fd)
        return True
    def mkdir(self, p): self._ck(self.io.mkdir(self.io.ctx, p.encode()), p)
    def sync_dir(self, p): self._ck(self.io.sync_dir(self.io.ctx, p.encode()), p)
    def listdir(self, p):
        n = self._ck(self.io.list(self.io.ctx, p.encode(), ffi.NULL, 0), p)
        buf = ffi.new("char[]", n + 1)
        self._ck(self.io.list(self.io.ctx, p.encode(), buf, n), p)
        return [x.decode() for x in bytes(ffi.buffer(buf, n)).split(b"\0") if x]
    def unlink(self, p): self._ck(self.io.unlink(self.io.ctx, p.encode()), p)
    def lock(self, p):
        o = ffi.new("int64_t *")
        rc = self.io.lock(self.io.ctx, p.encode(), o)
        if rc == -errno.EAGAIN: raise StoreLocked(p, o[0])
        return self._ck(rc, p)
    def read_at(self, p, off, n):
        fd = self.open(p, 1)
        buf = ffi.new("char[]", n)
        self.io.pread(self.io.ctx, fd, buf, n, off); self.close(fd)
        return bytes(ffi.buffer(buf, n))
def posix(threaded=True):
    import time, secrets
    from hstreamlite.env import Env
    e = Env(); e.files = Files(lib.hsl_io_posix()); e.threaded = threaded
    class C:
        mono_ns=staticmethod(time.monotonic_ns); wall_ms=staticmethod(lambda: int(time.time()*1000))
    e.clock=C
    class R:
        u64=staticmethod(lambda: secrets.randbits(64)); bytes=staticmethod(secrets.token_bytes)
    e.rng=R; e.pid=os.getpid
    return e
real_env=posix
