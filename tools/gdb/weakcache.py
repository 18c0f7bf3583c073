# SPDX-License-Identifier: Apache-2.0
"""Pretty-printers of gdb for weakcache: references with their counts, containers with their entries.

    (gdb) source …/tools/gdb/weakcache.py

Reads memory only: calls no function of the program, so it also works on a core file, and while other
threads hold locks. The program has to be compiled with -g.
"""

import gdb
import gdb.printing

# The layouts below are those of weakref/internal/reference_counts.h, its watcher_list.h,
# cache/internal/slot/chunk_tags.h and the two indices. tests/gdb/ fails if one of them changes.
HALF_BITS = 32  # of the count word
EXPIRED = 1 << (HALF_BITS - 1)
CHUNK_ENTRIES = 7
INDEX_SHIFT_MASK, INDEX_MAX_ORDER = 31, 28  # of the word of a ConcurrentIndex
EXTERNAL_TAG = 1 << 31  # of the tagged hash of a ConcurrentSlot
BLOCK, TABLE_SLOT = (f"weakcache::internal::{name}<" for name in ("BasicControlBlock", "TableSlot"))


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
    pointers = gdb.lookup_type("void").pointer().pointer()
    vtable = int(gdb.Value(address).cast(pointers).dereference())
    symbol = gdb.execute(f"info symbol {vtable}", to_string=True)
    prefix = "vtable for weakcache::internal::"
    return symbol[len(prefix) :] if symbol.startswith(prefix) else ""


def container_of_pages(name):
    return next((container for text, container in PAGES if text in name), "")


def watcher_owners(block, block_type):
    """The addresses of the owners of a block's watchers, newest first."""
    head = field(block, block_type, "watchers_")["head_"]
    policy = bare(block_type).template_argument(0)
    watcher = gdb.lookup_type(f"weakcache::internal::BasicWatcher<{policy}>").pointer()
    address = int(atomic(head["word_"])) & ~1  # the lowest bit is a lock
    for _ in range(MAX_WATCHERS):
        if address == 0:
            return
        yield int(field(address, watcher.target(), "owner_"))
        address = int(field(address, watcher.target(), "next_"))


def known_to(block, block_type):
    """What knows the object of a block, such as "2 WeakSet, OnExpire", or ""."""
    found = {}
    for owner in watcher_owners(block, block_type):
        name = class_name(owner)
        kind = next((kind for start, kind in OWNERS.items() if name.startswith(start)), "")
        kind = kind or container_of_pages(name) or "a watcher"
        found[kind] = found.get(kind, 0) + 1
    names = [kind if count == 1 else f"{count} {kind}" for kind, count in found.items()]
    return ", ".join(names)


def creator(block):
    """The container that has created the object, in a slot of its own, or ""."""
    name = class_name(block)
    return container_of_pages(name) if "EmbeddedSlot<" in name.split("<", 1)[0] + "<" else ""


def is_pointer(value):
    return value.type.strip_typedefs().code == gdb.TYPE_CODE_PTR


class ReferencePrinter:
    """Ref, WeakRef, AtomicRef, AtomicWeakRef."""

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
        created_by = creator(self.block)
        watchers = known_to(self.block, self.block_type)
        text = str(self.counts())
        text += f"; created by {created_by}" if created_by else ""
        text += f"; known to {watchers}" if watchers else ""
        return f"{name} ({text})"

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

    def __init__(self, payload, pointer, dead):
        self.payload = payload
        self.pointer = pointer
        self.dead = dead


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
        return Entry(payload, field(address, slot_type, "pointer_").cast(element.pointer()), dead)
    handle = field(address, external_type, "handle_")["_M_payload"]["_M_payload"]["_M_value"]
    if has_field(handle, "_M_refcount"):
        return Entry(payload, handle["_M_ptr"], dead or is_expired_weak_ptr(handle))
    return Entry(payload, handle["pointer_"], dead or Counts.of(handle["block_"]).expired)


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
        return entry.payload["key"], entry.pointer

    def to_string(self):
        if self.moved_from():
            return f"{container_name(self.value)} (moved from)"
        budget = int(atomic(self.store()["retention_"]["budget_"]))
        limit = "no limit" if budget == (1 << 64) - 1 else f"budget {budget} bytes"
        retained = sum(1 for entry in self.entries() if not entry.dead and is_retained(entry))
        return f"{super().to_string()}, {retained} retained, {limit}"


def is_retained(entry):
    state = str(atomic(entry.payload["ownership"]["state_"]))
    return state.endswith(("::kRetained", "::kRetainedCounted"))


def printers():
    found = gdb.printing.RegexpCollectionPrettyPrinter("weakcache")
    found.add_printer("Ref", r"^weakcache::(Weak)?Ref<.*>$", ReferencePrinter)
    found.add_printer("AtomicRef", r"^weakcache::Atomic(Weak)?Ref<.*>$", ReferencePrinter)
    found.add_printer("WeakValueMap", r"^weakcache::WeakValueMap<.*>$", MapPrinter)
    found.add_printer("WeakKeyMap", r"^weakcache::WeakKeyMap<.*>$", KeyMapPrinter)
    found.add_printer("WeakSet", r"^weakcache::WeakSet<.*>$", SetPrinter)
    found.add_printer("WeakInterner", r"^weakcache::WeakInterner<.*>$", InternerPrinter)
    found.add_printer(
        "ConcurrentWeakValueMap", r"^weakcache::ConcurrentWeakValueMap<.*>$", ConcurrentPrinter
    )
    found.add_printer("LargeObjectCache", r"^weakcache::LargeObjectCache<.*>$", CachePrinter)
    return found


gdb.printing.register_pretty_printer(gdb.current_objfile(), printers(), replace=True)
