import os, threading, time, secrets
class _Threads:
    lock=staticmethod(threading.Lock); rlock=staticmethod(threading.RLock); condition=staticmethod(threading.Condition); event=staticmethod(threading.Event)
    def start(self,name,fn):
        t=threading.Thread(target=fn,name=name,daemon=True); t.start(); return t
class Env:
    threads=_Threads()
    def after_fork_in_child(self, fn):
        return lambda: None
