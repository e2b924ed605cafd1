"""Worker processes: work on cases that a crash, a runaway or a kill cannot take the command along with.

wire.py       what goes through the pipes: length-prefixed JSON
worker.py     the program of a worker: python -m autoseg.processes.worker
child.py      a worker as the command sees it
losses.py     what a lost worker comes to
executor.py   ProcessExecutor: hands out cases, notices deaths, tries again
"""
