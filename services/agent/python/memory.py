# The first half of the script of the warm Python interpreters' parent; parent.py is the other, and says what it is.
#
# Here: which memory a spare shall have for its own. After a fork each page that is written costs a fault and a copy. Where that is
# dear, blocks of 2 MiB are copied whole instead (module.h).
import sys

del sys.path[0]  # /proc/self/fd

import ctypes
import os
import struct

PRESENT, EXCLUSIVE = 1 << 63, 1 << 56  # in /proc/self/pagemap
PAGE, BLOCK = 4096, 2 << 20
MAPPED_AT_ONCE = 64 << 10  # by a read fault in a file
LARGEST_MAPPING = 64 << 20
FEWEST_PAGES_OF_CODE = 32
MOST_RANGES = 4096
MAP_PRIVATE_ANONYMOUS, MAP_FIXED_NOREPLACE = 0x2 | 0x20, 0x100000
MAP_FAILED = 2 ** 64 - 1

native = ctypes.PyDLL(None)
native.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
native.mmap.restype = ctypes.c_void_p
native.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t


class Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("writable", ctypes.c_uint64)]


class Memory(ctypes.Structure):
    _fields_ = [("blocks", ctypes.POINTER(Range)), ("block_count", ctypes.c_uint64),
                ("pages", ctypes.POINTER(Range)), ("page_count", ctypes.c_uint64)]


# What the parent is to do: blocks of code and of data that it is to own in large pages, gaps in those that it is to fill
# before, pages that spares are to touch beside the data, and all those where there are no large pages.
class Plan(ctypes.Structure):
    _fields_ = [("counts", ctypes.c_uint64 * 5), ("ranges", Range * MOST_RANGES)]

    def lists(self):
        start = 0
        for count in self.counts:
            yield (Range * count).from_buffer(self, Plan.ranges.offset + start * ctypes.sizeof(Range))
            start += count


# What a process has mapped: (start, end, permissions, name).
def mappings(process):
    with open("/proc/%d/maps" % process) as maps:
        for line in maps.read().splitlines():
            addresses, permissions, _, _, _, *name = line.split(None, 5)
            start, end = (int(word, 16) for word in addresses.split("-"))
            yield start, end, permissions, "".join(name)


# The pages of a process that are its own copy, or of a file and mapped: (address, writable).
def touched_pages(process):
    with open("/proc/%d/pagemap" % process, "rb", buffering=0) as pagemap:
        for start, end, permissions, name in mappings(process):
            if permissions[0] != "r" or permissions[3] != "p" or end - start > LARGEST_MAPPING or name == "[vdso]":
                continue
            writable = permissions[1] == "w"
            wanted = PRESENT | EXCLUSIVE if writable else PRESENT
            entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
            for i, (entry,) in enumerate(struct.iter_unpack("=Q", entries)):
                if entry & wanted == wanted:
                    yield start + i * PAGE, writable


def plan_of(pages, has_threads):
    # Another thread could write to what is being copied.
    code, data, gaps = ([], [], []) if has_threads else worthwhile_blocks(pages)
    lists = (as_ranges([(block, False) for block in code], BLOCK), as_ranges([(block, True) for block in data], BLOCK),
             (Range * len(gaps))(*gaps), as_ranges(single_pages(pages, {*code, *data}), PAGE),
             as_ranges(single_pages(pages, ()), PAGE))
    if sum(map(len, lists)) > MOST_RANGES:
        return b""
    return b"".join(map(bytes, ((ctypes.c_uint64 * 5)(*map(len, lists)), *lists)))


def block_of(address):
    return address & -BLOCK


# What lies in a block: (start, end, permissions, name).
def parts_of(block, layout):
    return [(max(start, block), min(end, block + BLOCK), permissions, name)
            for start, end, permissions, name in layout if start < block + BLOCK and end > block]


def is_code(parts):
    return (sum(end - start for start, end, _, _ in parts) == BLOCK and len({name for *_, name in parts}) == 1
            and all(permissions in ("r-xp", "r--p") for _, _, permissions, _ in parts))


def is_data(parts):
    return (any(permissions == "rw-p" for _, _, permissions, _ in parts)
            and all(permissions in ("rw-p", "r--p") and name != "[stack]" for _, _, permissions, name in parts))


def gaps_in(block, parts):
    at = block
    for start, end in [(start, end) for start, end, _, _ in parts] + [(block + BLOCK, 0)]:
        if at < start:
            yield at, start - at, True
        at = end


# The blocks that are worth a large page, of code and of data, and the gaps in those. Constants that share a block with data
# become writable; reading them is no cost, since the kernel maps their neighbours along.
def worthwhile_blocks(pages):
    counts, written = {}, {}
    for page, writable in pages:
        block = block_of(page)
        counts[block] = counts.get(block, 0) + 1
        written[block] = written.get(block, 0) + writable
    fewest = pages_of_a_blocks_cost([page for page in pages if page[1]])
    code, data, gaps = [], [], []
    if fewest is None:
        return code, data, gaps
    layout = list(mappings(os.getpid()))
    for block, count in sorted(counts.items()):
        parts = parts_of(block, layout)
        if count >= FEWEST_PAGES_OF_CODE and is_code(parts):
            code.append(block)
        elif written[block] >= fewest and is_data(parts):
            data.append(block)
            gaps += gaps_in(block, parts)
    return code, data, gaps


def as_ranges(pages, size):
    ranges = []
    for start, writable in pages:
        if ranges and ranges[-1][0] + ranges[-1][1] == start and ranges[-1][2] == writable:
            ranges[-1][1] += size
        else:
            ranges.append([start, size, writable])
    return (Range * len(ranges))(*(Range(*each) for each in ranges))


def own(ranges):
    return native.runbus_own(ranges, ctypes.c_uint64(len(ranges))) == 0


def size_of_large_pages():
    with open("/proc/self/smaps") as smaps:
        return sum(int(line.split()[1]) for line in smaps if line.startswith("AnonHugePages:")) << 10


# What is to be touched one by one: what is written, and what else the kernel does not map along with its neighbours.
def single_pages(pages, blocks):
    windows = set()
    for page, writable in pages:
        if block_of(page) not in blocks and (writable or page // MAPPED_AT_ONCE not in windows):
            windows.add(page // MAPPED_AT_ONCE)
            yield page, writable


# Microseconds of processor time that a child needs to have this memory.
def cost_of(memory):
    child = os.fork()
    if not child:
        try:
            native.runbus_prepare(ctypes.byref(memory))
        finally:
            os._exit(0)
    usage = os.wait4(child, 0)[2]
    return (usage.ru_utime + usage.ru_stime) * 1e6


# How many pages that are written cost as much as the copy of a block. Seen: 200, and 6 where each page's fault goes by way of a
# hypervisor. None: there are no large pages, or nothing to compare.
def pages_of_a_blocks_cost(written):
    at = native.mmap(0, 2 * BLOCK, 3, MAP_PRIVATE_ANONYMOUS, -1, 0)
    if at == MAP_FAILED:
        return None
    block = as_ranges([(block_of(at + BLOCK - 1), True)], BLOCK)
    pages, nothing = as_ranges(written, PAGE), as_ranges([], PAGE)
    fewest = None
    if own(block) and written and size_of_large_pages() >= BLOCK:
        bare, all_pages, one_block = (
            min(cost_of(memory) for _ in range(3))
            for memory in (Memory(nothing, 0, nothing, 0), Memory(nothing, 0, pages, len(pages)), Memory(block, 1, nothing, 0)))
        fewest = (one_block - bare) / max((all_pages - bare) / len(written), 0.1)
    native.munmap(at, 2 * BLOCK)
    return fewest


