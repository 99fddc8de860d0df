"""Counters in shared memory: one row of unsigned 64-bit integers for each member of a fleet.

Every member writes only its own row, and an aligned 8-byte store cannot be seen half done, so nobody
locks and the supervisor reads totals at any moment, also of a process that was killed.
"""

import mmap
import os

FAILED = "connprobe-failed"  # what a member says of itself last, where it ends by an exception


class SharedTable:
    """`rows` x `columns` of u64 in an anonymous memory file that children inherit by descriptor.

    The descriptor may be closed once they have: the mapping stays.
    """

    def __init__(self, rows: int, columns: int, fd: int | None = None) -> None:
        self.rows, self.columns = rows, columns
        self.fd = os.memfd_create("connprobe-counters", os.MFD_CLOEXEC) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, max(rows * columns * 8, mmap.PAGESIZE))
        self._map = mmap.mmap(self.fd, max(rows * columns * 8, mmap.PAGESIZE))
        self.cells = memoryview(self._map).cast("Q")

    def row(self, index: int) -> memoryview:
        """The writable row of one member."""
        return self.cells[index * self.columns : (index + 1) * self.columns]

    def column(self, column: int) -> list[int]:
        """This column of every row."""
        return self.cells[column : self.rows * self.columns : self.columns].tolist()

    def copy(self) -> "SharedTable":
        """As it is now, for this process alone."""
        table = SharedTable(self.rows, self.columns)
        os.close(table.fd)
        for index in range(self.rows):
            table.row(index)[:] = self.row(index)
        return table

    def total(self, column: int) -> int:
        return sum(self.column(column))
