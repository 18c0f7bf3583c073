# SPDX-License-Identifier: Apache-2.0
"""Pretty-printers of gdb for weakcache: references with their counts, containers with their entries.

    (gdb) source …/tools/gdb/weakcache.py

Reads memory only: calls no function of the program, so it also works on a core file, and while other
threads hold locks. The program has to be compiled with -g.
"""

import functools
import re
import time

import gdb
import gdb.printing

# The layouts below are those of weakref/internal/reference_counts.h, its watcher_list.h,
# cache/internal/slot/chunk_tags.h and slot_pages.h, the two indices and
# cache/internal/stats/holder_sampler.h. tests/gdb/ fails if one of them changes.
HALF_BITS = 32  # of the count word
EXPIRED = 1 << (HALF_BITS - 1)
CHUNK_ENTRIES = 7
INDEX_SHIFT_MASK, INDEX_MAX_ORDER = 31, 28  # of the word of a ConcurrentIndex
EXTERNAL_TAG = 1 << 31  # of the tagged hash of a ConcurrentSlot
PAGE_UNIT, DISTANCE_MASK = 8, (1 << 23) - 1  # of the distance of a ConcurrentSlot to its page
INTERNAL = "weakcache::internal::"
BLOCK, TABLE_SLOT, CONCURRENT_SLOT, EXTERNAL_WATCHER, WATCHER = (
    f"{INTERNAL}{name}<"
    for name in (
        "BasicControlBlock",
        "TableSlot",
        "ConcurrentSlot",
        "ExternalSlotWatcher",
        "BasicWatcher",
    )
)


def attempt(make, otherwise):
    """What make() returns, or `otherwise` where it can't read memory that is damaged or half-built.

    Such memory may make any step fail, so any error counts.
    """
    try:
        return make()
    except Exception:
        return otherwise


def has_field(value, name):
    try:
        value[name]
    except gdb.error:
        return False
    return True


def atomic(value):
    """What a std::atomic holds, of libstdc++ or libc++; another value as it is."""
    while value.type.strip_typedefs().code == gdb.TYPE_CODE_STRUCT:
        for name in ("_M_b", "_M_i", "_M_p", "__a_", "__a_value"):
            if has_field(value, name):
                value = value[name]
                break
        else:
            break
    return value


def bare(gdb_type):
    return gdb_type.strip_typedefs().unqualified()


def part(address, gdb_type, wanted):
    """A pointer to the base class or field whose name is `wanted`, of the object at an address.

    `wanted` may end in "<": then any arguments are accepted. Nothing with virtual functions is
    dereferenced: gdb would look for the type of the whole object, and warn that it has no symbol.
    """
    for member in bare(gdb_type).fields():
        # Clang calls a base class by the alias in its derived class, if there is one.
        name = str(bare(member.type)) if member.is_base_class else member.name or ""
        if not hasattr(member, "bitpos"):
            continue
        if name == wanted or (wanted.endswith("<") and name.startswith(wanted)):
            return gdb.Value(address + member.bitpos // 8).cast(member.type.pointer())
        if not name and has_member(member.type, wanted):  # an anonymous union
            return part(address + member.bitpos // 8, member.type, wanted)
    raise gdb.error(f"{gdb_type} has no {wanted}")


def field(address, gdb_type, name):
    """The value of a field of the object at an address."""
    return part(address, gdb_type, name).dereference()


def readable(items):
    """The items up to the first that can't be read, and whether those are all."""
    found = []
    return found, attempt(lambda: found.extend(items) is None, False)


def inherited(address, gdb_type, name):
    """The value of a field of the object at an address, or of one of its base classes."""
    for member in bare(gdb_type).fields():
        if not hasattr(member, "bitpos"):
            continue
        begin = address + member.bitpos // 8
        if member.is_base_class:
            found = attempt(functools.partial(inherited, begin, member.type, name), None)
            if found is not None:
                return found
        elif member.name == name:
            return gdb.Value(begin).cast(member.type.pointer()).dereference()
    raise gdb.error(f"{gdb_type} has no {name}")


def pointer_at(address):
    """The address in the pointer at an address."""
    pointers = gdb.lookup_type("void").pointer().pointer()
    return int(gdb.Value(address).cast(pointers).dereference())


def has_member(gdb_type, name):
    return any(member.name == name for member in gdb_type.fields())


def plain_name(gdb_type):
    """The name of a type, with std::string as it is written."""
    name = str(bare(gdb_type))
    for string in ("std::__cxx11::basic_string", "std::basic_string"):
        name = name.replace(
            f"{string}<char, std::char_traits<char>, std::allocator<char> >", "std::string"
        )
    return name


def container_name(value):
    """The name of a container with its first arguments, without hash, equality and allocator."""
    gdb_type = bare(value.type)
    name = str(gdb_type).split("<", 1)[0]
    wanted = 1 if name.endswith(("WeakSet", "WeakInterner")) else 2
    arguments = ", ".join(plain_name(gdb_type.template_argument(i)) for i in range(wanted))
    return f"{name}<{arguments}>"


class Counts:
    """The counts in a control block, as the methods of Ref return them."""

    def __init__(self, address, block_type):
        counts = field(address, block_type, "counts_")
        word = int(atomic(counts["word_"])) & (1 << 2 * HALF_BITS) - 1
        low, weak = word & (1 << HALF_BITS) - 1, word >> HALF_BITS
        self.expired = bool(low & EXPIRED)
        # Between the two steps of the last release the count is zero, and the object can be upgraded.
        self.strong = 0 if self.expired else max(low, 1)
        self.weak = weak if self.expired or weak == 0 else weak - 1

    @staticmethod
    def of(pointer):
        return Counts(int(pointer), pointer.type.strip_typedefs().target())

    def __str__(self):
        if self.expired:
            return f"expired, weak count {self.weak}"
        return f"use count {self.strong}, weak count {self.weak}"


# --- What knows an object, as DumpObject shows it -------------------------------------------------

MAX_WATCHERS = 1000
# What a watcher's owner is, by the beginning of its class's name.
OWNERS = {"ExpiryCallback": "OnExpire", "FinalizerNode": "Finalize", "CensusCore": "Census"}
# Which container the pages of a slot belong to, by a part of their class's name. The first counts.
PAGES = (
    ("CacheKey<", "LargeObjectCache"),
    ("ConcurrentCore<", "ConcurrentWeakValueMap"),
    ("PayloadLifetime)1", "WeakKeyMap"),
    ("internal::NothingBesideInterned", "WeakInterner"),
    ("internal::ObjectInSlot<", "WeakInterner"),
    ("internal::Nothing", "WeakSet"),
    ("TableCore<", "WeakValueMap"),
)


def class_name(address):
    """The name of an object's class within weakcache::internal, from its vtable's symbol; or ""."""
    symbol = gdb.execute(f"info symbol {pointer_at(address)}", to_string=True)
    prefix = f"vtable for {INTERNAL}"
    # After the name is where in which section and file the address is.
    return symbol[len(prefix) :].split(" + ", 1)[0] if symbol.startswith(prefix) else ""


def container_of_pages(name):
    return next((container for text, container in PAGES if text in name), "")


def watchers(block, block_type):
    """The addresses of a block's watchers and of their owners, newest first."""
    head = field(block, block_type, "watchers_")["head_"]
    policy = bare(block_type).template_argument(0)
    watcher = gdb.lookup_type(f"{INTERNAL}BasicWatcher<{policy}>").pointer()
    address = int(atomic(head["word_"])) & ~1  # the lowest bit is a lock
    for _ in range(MAX_WATCHERS):
        if address == 0:
            return
        yield address, int(field(address, watcher.target(), "owner_"))
        address = int(field(address, watcher.target(), "next_"))


def counted_names(names):
    """The names with how often each is there, such as "2 WeakSet, OnExpire"."""
    counts = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())


def known_to(owner):
    """What a watcher with that owner is, such as "WeakSet" or "OnExpire"."""
    name = class_name(owner)
    kind = next((kind for start, kind in OWNERS.items() if name.startswith(start)), "")
    return kind or container_of_pages(name) or "a watcher"


def creator(block):
    """The container that has created the object, in a slot of its own, or ""."""
    name = class_name(block)
    return container_of_pages(name) if "EmbeddedSlot<" in name.split("<", 1)[0] + "<" else ""


def with_prefix(prefix, text):
    return [prefix + text] if text else []


def is_pointer(value):
    return value.type.strip_typedefs().code == gdb.TYPE_CODE_PTR


# --- What a cache knows of an object, as DumpObject shows it --------------------------------------

CACHE = "LargeObjectCache"
MAX_LABEL = 200
# How ages are written: the names of units, and their nanoseconds.
UNITS = (("h", 3600 * 10**9), ("m", 60 * 10**9), ("s", 10**9))


def core_type(name):
    """The ConcurrentCore in the name of a class.

    The types in it are found by its fields, not by their names: the debug information of GCC may
    write a name differently within another name.
    """
    begin = name.index("ConcurrentCore<")
    depth = 0
    for end in range(begin, len(name)):
        depth += {"<": 1, ">": -1}.get(name[end], 0)
        if name[end] == ">" and depth == 0:
            return gdb.lookup_type(INTERNAL + name[begin : end + 1])
    raise gdb.error("no name of a class")


def type_of_field(gdb_type, name):
    return bare(next(member.type for member in bare(gdb_type).fields() if member.name == name))


class CacheSlot:
    """The slot of a LargeObjectCache at an address."""

    def __init__(self, address, core, kind):
        """`kind` is "embedded" or "external"."""
        pages = type_of_field(type_of_field(core, "pages_"), kind)  # a SlotPages
        self.address = address
        self.whole_type = bare(pages.template_argument(0))
        self.slot_type = part(address, self.whole_type, CONCURRENT_SLOT).type.target()
        self.other_type = bare(pages.template_argument(3))
        self.page_type = bare(type_of_field(pages, "pages_").template_argument(0)).target()
        self.page = address - PAGE_UNIT * (int(self.field("distance_")) & DISTANCE_MASK)

    @staticmethod
    def at(address):
        name = class_name(address)
        kind = "external" if name.startswith("ConcurrentExternalSlot<") else "embedded"
        return CacheSlot(address, core_type(name), kind)

    @staticmethod
    def of_block(block):
        """The slot whose counts are those of the object of a block, or None."""
        return CacheSlot.at(block) if creator(block) == CACHE else None

    @staticmethod
    def of_watcher(watcher, page):
        """The slot that watches an object, by the owner of its watcher, or None."""
        if known_to(page) != CACHE:
            return None
        core = core_type(class_name(page))
        pages = type_of_field(type_of_field(core, "pages_"), "external")
        whole_type = bare(pages.template_argument(0))
        base = part(0, whole_type, EXTERNAL_WATCHER)
        distance = int(part(int(base), base.type.target(), WATCHER))
        return CacheSlot(watcher - distance, core, "external")

    def field(self, name):
        return field(self.address, self.slot_type, name)

    def is_in_cache(self):
        if not str(atomic(self.field("state_"))).endswith("::kVisible"):
            return False
        core = inherited(self.page, self.page_type, "core_")
        retired = field(int(core), core.type.target(), "retire_list")
        return int(atomic(retired["head_"])) != 1  # the cache has ended

    def is_retained(self):
        return is_retained(self.field("payload_"))

    def other_part(self):
        """The address and the type of the CacheEntry, which lies apart."""
        first = self.page + self.page_type.sizeof  # or somewhat later, by the slots' alignment
        index = (self.address - first) // self.whole_type.sizeof
        address = int(field(self.page, self.page_type, "cold")) + index * self.other_type.sizeof
        if int(inherited(address, self.other_type, "slot")) != self.address:
            raise gdb.error("the slot's other part is not where it should be")
        return address, self.other_type

    def log(self):
        """The HolderLog of the object, or None if it is not sampled."""
        extras = pointer_at(int(inherited(*self.other_part(), "extras").address))
        if extras == 0:
            return None
        extras_type = gdb.lookup_type(f"{INTERNAL}EntryExtras")
        log = pointer_at(int(field(extras, extras_type, "holders").address))
        if log == 0:
            return None
        log_type = gdb.lookup_type(f"{INTERNAL}HolderLog").pointer()
        return gdb.Value(log).cast(log_type).dereference()

    def read_holders(self, elsewhere):
        log = self.log()
        if log is None:
            return ""
        strong = Counts.of(inherited(*self.other_part(), "object")).strong
        return holders_text(log, strong - elsewhere)

    def holders(self, elsewhere=0):
        """Who has taken the object, such as '"renderer": 3 look-ups'; "" if it is not sampled.

        So many references of other entries are known.
        """
        return attempt(lambda: self.read_holders(elsewhere), "(unreadable)")


NOBODY = "nobody in a look-up since it was idle"


def holders_text(log, strong):
    """What a HolderLog says of an object with so many references.

    Such as '"renderer": 3 look-ups, 2h3m to 5s ago'.
    """
    being_written = int(atomic(log["stacks_"]["word_"])) & 1  # the lowest bit is a lock
    if strong <= int(log["retained_"]):  # the reference is the cache's own
        return NOBODY
    record_type = gdb.lookup_type(f"{INTERNAL}HolderLog::HolderRecord")
    records = log["records_"]
    size, most = int(log["size_"]), records.type.sizeof // record_type.sizeof
    if size > most:
        raise gdb.error("the log is damaged")
    first = records.address.cast(record_type.pointer())
    now = None if int(log["has_own_clock_"]) else steady_now()
    merged = {}  # look-ups under one label from different call stacks become one
    for record in (first[i] for i in range(size)):
        look_ups, begin, end = (int(record[name]) for name in ("look_ups", "first", "last"))
        label = label_text(int(record["label"]))
        if label in merged:
            known = merged[label]
            look_ups += known[0]
            begin, end = min(begin, known[1]), max(end, known[2])
        merged[label] = look_ups, begin, end
    texts = [holder_text(label, *entry, now) for label, entry in merged.items()]
    if int(log["dropped_look_ups_"]) != 0:
        texts.append(holder_text("others", int(log["dropped_look_ups_"]), 0, 0, None))
    if not texts:
        return NOBODY
    return ("(being written) " if being_written else "") + ", ".join(texts)


def label_text(address):
    """A label in quotes. Read byte by byte: a damaged one need not end before its memory does."""
    if address == 0:
        return "(no label)"
    text = bytearray()
    inferior = gdb.selected_inferior()
    try:
        while len(text) < MAX_LABEL:
            byte = bytes(inferior.read_memory(address + len(text), 1))
            if byte == b"\0":
                break
            text += byte
    except gdb.error:
        return "(unreadable)"
    return '"' + re.sub(r"[^ -~]", "?", text.decode("utf-8", "replace")) + '"'


def holder_text(label, look_ups, first, last, now):
    text = f"{label}: {look_ups} {'look-up' if look_ups == 1 else 'look-ups'}"
    return text if now is None else f"{text}, {age_text(now - first)} to {age_text(now - last)} ago"


def steady_now():
    """std::chrono::steady_clock in nanoseconds, or None if the program does not run here."""
    connection = getattr(gdb.selected_inferior(), "connection", None)
    if connection is None or connection.type != "native":
        return None
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def age_text(age):
    """Nanoseconds in their two largest units, such as 2h3m or 5s."""
    rest, text, parts = max(age, 0), "", 0
    for name, nanoseconds in UNITS:
        whole, rest = divmod(rest, nanoseconds)
        if whole != 0 and parts < 2:
            text += f"{whole}{name}"
        if whole != 0 or parts != 0:
            parts += 1
    return text or f"{rest // 10**6}ms"


class ReferencePrinter:
    """Ref, WeakRef, AtomicRef, AtomicWeakRef, EdgeRef."""

    def __init__(self, value):
        self.value = value
        if has_field(value, "state_"):
            state = value["state_"]
            self.pointer = state["pointer_"]
            self.block_type = bare(state["block_"].type).template_argument(1)
            self.block = int(atomic(state["block_"]["word_"])) & ~1  # the lowest bit is a lock
        else:
            self.pointer = value["pointer_"]
            self.block_type = value["block_"].type.target()
            self.block = int(value["block_"])

    def counts(self):
        return Counts(self.block, self.block_type)

    def to_string(self):
        name = plain_name(self.value.type)
        if self.block == 0:
            return f"{name} (null)"
        counts = self.counts()
        parts = [str(counts)]
        parts += with_prefix("created by ", attempt(lambda: creator(self.block), "(unreadable)"))
        found, complete = readable(watchers(self.block, self.block_type))
        names = [attempt(functools.partial(known_to, page), "(unreadable)") for _, page in found]
        names += [] if complete else ["(unreadable)"]
        parts += with_prefix("known to ", counted_names(names))
        return f"{name} ({'; '.join(parts + self.from_caches(found, counts))})"

    def from_caches(self, found, counts):
        """What the caches say that have the object, in its own slot or in one that watches it."""
        makers = [functools.partial(CacheSlot.of_watcher, *pair) for pair in found]
        if not counts.expired:
            makers.insert(0, functools.partial(CacheSlot.of_block, self.block))
        slots = [attempt(make, None) for make in makers]
        slots = [s for s in slots if s is not None and attempt(s.is_in_cache, False)]
        retained = [int(attempt(slot.is_retained, False)) for slot in slots]
        holders = []
        for slot, own in zip(slots, retained):
            holders += with_prefix("taken by ", slot.holders(sum(retained) - own))
        return with_prefix("retained by ", counted_names([CACHE] * sum(retained))) + holders

    def children(self):
        # The object of an expired reference has been destroyed.
        if self.block != 0 and not self.counts().expired:
            yield "get()", self.pointer


# --- Slots -----------------------------------------------------------------------------------------


def used_entries(chunk):
    """The pointers to slots in a chunk of an index."""
    tags = int(atomic(chunk["tags"])) & (1 << 64) - 1
    for entry in range(CHUNK_ENTRIES):
        if tags >> (8 * entry) & 0xFF:
            yield atomic(chunk["slots"][entry])


def arguments_of(slot_type):
    """The handle's and the payload's type of a slot, as text."""
    return ", ".join(str(bare(slot_type).template_argument(i)) for i in range(2))


class Entry:
    """A slot in an index: a payload and an object that may be dead."""

    def __init__(self, payload, pointer, dead, slot=0):
        self.payload = payload
        self.pointer = pointer
        self.dead = dead
        self.slot = slot  # its address, in the thread-safe engine


def table_entry(slot):
    """The entry in a slot of the thread-compatible engine."""
    reference = slot["reference_"]
    if not is_pointer(reference):  # a std::weak_ptr
        return Entry(slot["payload_"], reference["_M_ptr"], is_expired_weak_ptr(reference))
    kind = "EmbeddedSlotBase" if int(slot["embedded_"]) else "ExternalSlot"
    whole_type = gdb.lookup_type(f"weakcache::internal::{kind}<{arguments_of(slot.type)}>")
    address = int(slot.address)
    # The slot is a base class of `whole`, and begins as far after it as this after the slot.
    whole = 2 * address - int(part(address, whole_type, TABLE_SLOT))
    if kind == "EmbeddedSlotBase":
        counts = Counts.of(part(whole, whole_type, BLOCK))
    else:
        counts = Counts.of(field(whole, whole_type, "block_"))
    return Entry(slot["payload_"], reference, counts.expired)


def is_expired_weak_ptr(weak):
    count = weak["_M_refcount"]["_M_pi"]
    if int(count) == 0:
        return True
    return int(field(int(count), count.type.strip_typedefs().target(), "_M_use_count")) == 0


def counted(entries):
    live = dead = 0
    for entry in entries:
        live, dead = live + (not entry.dead), dead + entry.dead
    text = f" with {live} {'object' if live == 1 else 'objects'}"
    return text + (f", {dead} dead and not purged" if dead else "")


class ContainerPrinter:
    """What all containers have in common: entries(), which yields each Entry."""

    def __init__(self, value):
        self.value = value

    def to_string(self):
        return container_name(self.value) + counted(self.entries())

    def display_hint(self):
        return "map"

    def children(self):
        live = (entry for entry in self.entries() if not entry.dead)
        for i, entry in enumerate(live):
            key, value = self.pair(entry)
            yield f"[{2 * i}]", key
            yield f"[{2 * i + 1}]", value


class TablePrinter(ContainerPrinter):
    """What the thread-compatible containers have in common."""

    def entries(self):
        index = self.value["table_"]["index_"]
        for i in range(int(index["chunk_count_"])):
            for slot in used_entries(index["chunks_"][i]):
                yield table_entry(slot.dereference())


class MapPrinter(TablePrinter):
    """WeakValueMap: keys and the objects' addresses."""

    def pair(self, entry):
        return entry.payload, entry.pointer


class KeyMapPrinter(TablePrinter):
    """WeakKeyMap: the key objects' addresses and the values."""

    def pair(self, entry):
        payload = entry.payload
        if str(bare(payload.type)).startswith("weakcache::internal::SeparateValue<"):
            payload = payload["value_"].dereference()
        return entry.pointer, payload


class SetPrinter(TablePrinter):
    """WeakSet: the objects' addresses."""

    def display_hint(self):
        return "array"

    def children(self):
        live = (entry for entry in self.entries() if not entry.dead)
        for i, entry in enumerate(live):
            yield f"[{i}]", self.element(entry)

    def element(self, entry):
        return entry.pointer


class InternerPrinter(SetPrinter):
    """WeakInterner: the objects."""

    def element(self, entry):
        return entry.pointer.dereference()


# --- The thread-safe engine ------------------------------------------------------------------------


def concurrent_entry(slot, external_type):
    """The entry in the slot of the thread-safe engine at an address."""
    address, slot_type = int(slot), slot.type.strip_typedefs().target()
    payload = field(address, slot_type, "payload_")
    dead = Counts.of(part(address, slot_type, BLOCK)).expired
    if int(atomic(field(address, slot_type, "tagged_hash_"))) < EXTERNAL_TAG:
        element = bare(bare(slot_type).template_argument(0)).template_argument(0)
        pointer = field(address, slot_type, "pointer_").cast(element.pointer())
        return Entry(payload, pointer, dead, address)
    handle = field(address, external_type, "handle_")["_M_payload"]["_M_payload"]["_M_value"]
    if has_field(handle, "_M_refcount"):
        return Entry(payload, handle["_M_ptr"], dead or is_expired_weak_ptr(handle), address)
    dead = dead or Counts.of(handle["block_"]).expired
    return Entry(payload, handle["pointer_"], dead, address)


class ConcurrentPrinter(ContainerPrinter):
    """ConcurrentWeakValueMap: keys and the objects' addresses."""

    def shards(self):
        """A value with the fields count_ and shards_ of a ShardArray."""
        return self.value["shards_"]

    def entries(self):
        array = self.shards()
        for i in range(int(array["count_"])):
            table = array["shards_"][i]["table"]
            index = table["index_"]
            core_type = table["core_"].type.strip_typedefs().target()
            external_type = gdb.lookup_type(f"{bare(core_type)}::External")
            chunk_type = gdb.lookup_type(f"{bare(index.type)}::Chunk")
            word = int(atomic(index["chunks_"]))
            chunks = gdb.Value(word & ~INDEX_SHIFT_MASK).cast(chunk_type.pointer())
            for chunk in range(1 << (INDEX_MAX_ORDER - (word & INDEX_SHIFT_MASK))):
                for slot in used_entries(chunks[chunk]):
                    yield concurrent_entry(slot, external_type)

    def pair(self, entry):
        return entry.payload, entry.pointer


class CachePrinter(ConcurrentPrinter):
    """LargeObjectCache: keys and addresses, how many objects are retained, and the budget."""

    def moved_from(self):
        return int(self.value["core_"]["core_"]) == 0

    def store(self):
        return self.value["core_"]["core_"].dereference()["store_"]

    def shards(self):
        return self.store()["shards_"]["shards_"]

    def entries(self):
        return () if self.moved_from() else super().entries()

    def pair(self, entry):
        key, retained = entry.payload["key"], attempt(lambda: is_retained(entry.payload), False)
        slot = attempt(lambda: CacheSlot.at(entry.slot), None)
        holders = "(unreadable)" if slot is None else slot.holders()
        if retained and not holders:
            return key, entry.pointer
        parts = ["retained" if retained else "not retained", *with_prefix("taken by ", holders)]
        return key, f"{int(entry.pointer):#x} ({'; '.join(parts)})"

    def to_string(self):
        if self.moved_from():
            return f"{container_name(self.value)} (moved from)"
        budget = int(atomic(self.store()["retention_"]["budget_"]))
        limit = "no limit" if budget == (1 << 64) - 1 else f"budget {budget} bytes"
        live = (entry for entry in self.entries() if not entry.dead)
        retained = sum(1 for entry in live if is_retained(entry.payload))
        return f"{super().to_string()}, {retained} retained, {limit}"


def is_retained(payload):
    state = str(atomic(payload["ownership"]["state_"]))
    return state.endswith(("::kRetained", "::kRetainedCounted"))


class Guarded:
    """A printer for a value that may be damaged, or not constructed yet: that is no error.

    Errors can't be told by their types: any step may find nonsense.
    """

    def __init__(self, printer_class, value):
        self.value = value
        self.printer = attempt(lambda: printer_class(value), None)

    def to_string(self):
        name = attempt(lambda: plain_name(self.value.type), "weakcache::")
        return attempt(lambda: self.printer.to_string(), f"{name} (unreadable)")

    def display_hint(self):
        return attempt(lambda: self.printer.display_hint(), None)

    def children(self):
        children = attempt(lambda: iter(self.printer.children()), iter(()))
        while True:
            child = attempt(lambda: next(children, None), None)
            if child is None:
                return
            yield child


def printers():
    def add(name, pattern, printer_class):
        found.add_printer(name, pattern, functools.partial(Guarded, printer_class))

    found = gdb.printing.RegexpCollectionPrettyPrinter("weakcache")
    add("Ref", r"^weakcache::(Weak)?Ref<.*>$", ReferencePrinter)
    add("EdgeRef", r"^weakcache::EdgeRef<.*>$", ReferencePrinter)
    add("AtomicRef", r"^weakcache::Atomic(Weak)?Ref<.*>$", ReferencePrinter)
    add("WeakValueMap", r"^weakcache::WeakValueMap<.*>$", MapPrinter)
    add("WeakKeyMap", r"^weakcache::WeakKeyMap<.*>$", KeyMapPrinter)
    add("WeakSet", r"^weakcache::WeakSet<.*>$", SetPrinter)
    add("WeakInterner", r"^weakcache::WeakInterner<.*>$", InternerPrinter)
    add("ConcurrentWeakValueMap", r"^weakcache::ConcurrentWeakValueMap<.*>$", ConcurrentPrinter)
    add("LargeObjectCache", r"^weakcache::LargeObjectCache<.*>$", CachePrinter)
    return found


gdb.printing.register_pretty_printer(gdb.current_objfile(), printers(), replace=True)
