// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/link.h"

#include <poll.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/redis/scripts.h"
#include "weakcache/cache/internal/redis/text.h"

namespace weakcache::internal {
namespace {

using std::chrono::steady_clock;

constexpr std::string_view kInvalidations = "__redis__:invalidate";
// What is sent and not answered is at most so much, and a change.
constexpr uint64_t kMaxSentBytes = 8 << 20;
constexpr size_t kMaxSent = 1024;
// A put of which so often the generations were others than a moment before.
constexpr int kMaxAttempts = 10;

Deadline::duration ToDuration(absl::Duration duration) {
  return std::chrono::duration_cast<Deadline::duration>(absl::ToChronoNanoseconds(duration));
}

// The error that a reply to a change is, or that one of an erasure's transaction is.
absl::Status ErrorIn(const Change& change, const redisReply& reply) {
  absl::Status error = ErrorOf(reply);
  if (change.kind != Change::Kind::kErase || reply.type != REDIS_REPLY_ARRAY) return error;
  for (size_t i = 0; i < reply.elements && error.ok(); ++i) error = ErrorOf(*reply.element[i]);
  return error;
}

// What the server puts before a key in the name of the channel of the key's events.
std::string EventPrefix(int database) { return Text("__keyspace@", database, "__:"); }

}  // namespace

Link::Link(const RedisTierOptions& options, const KeyNames& names, TierCounters& counters,
           std::shared_ptr<Dispatcher> dispatcher)
    : options_(options),
      names_(names),
      counters_(counters),
      dispatcher_(std::move(dispatcher)),
      id_(RandomDigits()),
      changes_(options.max_pending_changes, options.max_pending_bytes, counters,
               [this] { wake_pipe_.Wake(); }),
      leases_(ToDuration(options.lease_duration / 3)),
      backoff_(ToDuration(options.min_backoff), ToDuration(options.max_backoff), RandomFraction) {}

absl::Status Link::Start() {
  if (absl::Status status = wake_pipe_.Open(); !status.ok()) return status;
  thread_ = std::thread([this] { Run(); });
  const MutexLock lock(mutex_);
  attempted_condition_.WaitUntil(
      mutex_, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return attempted_; },
      After(3 * options_.connect_timeout));
  return absl::OkStatus();
}

void Link::Stop() {
  if (!thread_.joinable()) return;
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    stop_deadline_ = After(options_.hard_timeout);
  }
  wake_pipe_.Wake();
  thread_.join();
  changes_.Close({});
}

std::shared_ptr<const Endpoint> Link::endpoint() const {
  const MutexLock lock(mutex_);
  return connected_ ? endpoint_ : nullptr;
}

std::string Link::condition() const {
  const MutexLock lock(mutex_);
  return connected_ ? std::string() : condition_;
}

void Link::HoldLease(HeldLeases::Lease lease) {
  leases_.Add(std::move(lease));
  // The thread may be about to sleep for longer than this lease lasts.
  wake_pipe_.Wake();
}

absl::Status Link::AwaitNotices(Deadline deadline) {
  uint64_t own = 0;
  {
    const MutexLock lock(mutex_);
    if (!connected_) return absl::UnavailableError("Redis is away");
    own = ++questions_;
  }
  wake_pipe_.Wake();
  {
    const MutexLock lock(mutex_);
    answered_condition_.WaitUntil(
        mutex_, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return answered_ >= own || !connected_; },
        deadline);
    if (answered_ < own) return absl::UnavailableError("Redis has not answered");
  }
  if (dispatcher_->AwaitTold(deadline)) return absl::OkStatus();
  return absl::DeadlineExceededError("listeners have not been told in time");
}

bool Link::stopping() const {
  const MutexLock lock(mutex_);
  return stop_;
}

bool Link::MayStop() {
  {
    const MutexLock lock(mutex_);
    if (!stop_) return false;
    if (steady_clock::now() >= stop_deadline_) return true;
  }
  if (writer_ == nullptr) return !changes_.has_kept();
  return !playing_ && sent_.empty() && changes_.empty();
}

void Link::Run() {
  while (!MayStop()) {
#ifdef __cpp_exceptions
    try {
      RunOnce();
    } catch (const std::exception&) {  // no memory, or no source of random numbers
      // What was on its way is not known any more.
      changes_.KeepAll();
      Lose(absl::ResourceExhaustedError("no memory, or files, for what is sent to Redis"));
    }
#else
    RunOnce();
#endif
  }
  if (writer_ != nullptr) Lose(absl::CancelledError("the tier ends"));
}

void Link::RunOnce() {
  if (writer_ != nullptr) {
    if (absl::Status status = Serve(); !status.ok()) Lose(status);
    return;
  }
  AwaitRetry();
  if (MayStop()) return;
  if (absl::Status status = Connect(); !status.ok()) {
    Lose(status);
  } else {
    playing_ = true;
    PlayKept();
  }
  const MutexLock lock(mutex_);
  attempted_ = true;
  attempted_condition_.NotifyAll();
}

void Link::AwaitRetry() {
  while (true) {
    if (stopping() && !std::exchange(hurried_, true)) {
      backoff_.Reset();
      return;
    }
    const Deadline until = Bounded(retry_);
    if (steady_clock::now() >= until) return;
    (void)AwaitEvents(wake_pipe_.fd(), POLLIN, until);
    wake_pipe_.Clear();
  }
}

Deadline Link::Bounded(Deadline deadline) const {
  const MutexLock lock(mutex_);
  return stop_ ? std::min(deadline, stop_deadline_) : deadline;
}

absl::StatusOr<RedisAddress> Link::Resolve() {
  if (!options_.resolve_address) return options_.address;
#ifdef __cpp_exceptions
  try {
    return options_.resolve_address();
  } catch (const std::exception& thrown) {
    return absl::UnavailableError(Text("resolve_address has thrown: ", thrown.what()));
  } catch (...) {
    return absl::UnavailableError("resolve_address has thrown");
  }
#else
  return options_.resolve_address();
#endif
}

absl::Status Link::EndFormerWriter(Deadline deadline) {
  const absl::StatusOr<ReplyPointer> client = writer_->Call({"CLIENT", "ID"}, deadline);
  if (!client.ok()) return client.status();
  const absl::StatusOr<ReplyPointer> info = writer_->Call({"INFO", "server"}, deadline);
  if (!info.ok()) return info.status();
  constexpr std::string_view kRunId = "run_id:";
  std::string_view run = TextOf(**info);
  run.remove_prefix(std::min(run.size(), run.find(kRunId)));
  run = run.substr(0, run.find('\r'));
  if (run.empty()) return absl::UnavailableError("Redis has not told its run_id");
  if (identity_.client != 0 && identity_.run == run) {
    const std::string former = Text(identity_.client);
    absl::Status status = writer_->Call({"CLIENT", "KILL", "ID", former}, deadline).status();
    if (!status.ok()) return status;
  }
  identity_ = {.run = std::string(run), .client = (*client)->integer};
  return absl::OkStatus();
}

absl::Status Link::Connect() {
  absl::StatusOr<RedisAddress> resolved = Resolve();
  if (!resolved.ok()) return resolved.status();
  const RedisAddress address = *std::move(resolved);
  const Deadline deadline = Bounded(After(options_.connect_timeout));
  absl::StatusOr<std::unique_ptr<Connection>> writer =
      Connection::Open(address, options_, deadline);
  if (!writer.ok()) return writer.status();
  writer_ = *std::move(writer);
  if (absl::Status status = EndFormerWriter(deadline); !status.ok()) return status;
  // All connections go to the same server, whatever the name stands for next time.
  absl::StatusOr<RedisAddress> peer = writer_->Peer(address);
  if (!peer.ok()) return peer.status();
  absl::StatusOr<std::unique_ptr<Connection>> notices = Connection::Open(*peer, options_, deadline);
  if (!notices.ok()) return notices.status();
  notices_ = *std::move(notices);
  if (absl::Status status = StartTracking(deadline); !status.ok()) return status;
  sent_question_ = 0;
  writer_active_ = notices_active_ = steady_clock::now();
  writer_full_ = notices_asked_ = false;
  const MutexLock lock(mutex_);
  endpoint_ =
      std::make_shared<const Endpoint>(Endpoint{.address = *std::move(peer), .epoch = ++epoch_});
  return absl::OkStatus();
}

absl::Status Link::Subscribe(Deadline deadline) {
  for (const std::string_view channel : {kInvalidations, std::string_view(names_.channel())}) {
    absl::Status status = notices_->Call({"SUBSCRIBE", channel}, deadline).status();
    if (!status.ok()) return status;
  }
  events_.Clear();
  // May be forbidden to this client: then evictions are taken for changes.
  const absl::StatusOr<ReplyPointer> flags =
      writer_->Call({"CONFIG", "GET", "notify-keyspace-events"}, deadline);
  events_told_ = flags.ok() && (*flags)->type == REDIS_REPLY_ARRAY && (*flags)->elements == 2 &&
                 KeyEvents::AreTold(TextOf(*(*flags)->element[1]));
  if (!events_told_) return absl::OkStatus();
  const std::string events = Text(EventPrefix(options_.database), names_.ValuePattern());
  events_told_ = notices_->Call({"PSUBSCRIBE", events}, deadline).ok() &&
                 notices_->Call({"SUBSCRIBE", names_.OwnChannel(id_)}, deadline).ok();
  return absl::OkStatus();
}

absl::Status Link::StartTracking(Deadline deadline) {
  const absl::StatusOr<ReplyPointer> id = notices_->Call({"CLIENT", "ID"}, deadline);
  if (!id.ok()) return id.status();
  const std::string redirect = Text((*id)->integer);
  if (absl::Status status = Subscribe(deadline); !status.ok()) return status;
  if (absl::Status status = writer_
                                ->Call({"CLIENT", "TRACKING", "ON", "REDIRECT", redirect, "BCAST",
                                        "PREFIX", names_.tracked(), "NOLOOP"},
                                       deadline)
                                .status();
      !status.ok()) {
    return status;
  }
  const uint64_t version = generations_.version();
  const absl::StatusOr<ReplyPointer> generation =
      writer_->Call({"GET", names_.generation()}, deadline);
  if (!generation.ok()) return generation.status();
  std::string known(TextOf(**generation));
  if (!known.empty() && !IsOfRun(known, identity_.run)) {
    // The server has started again, or is another one: what was erased meanwhile may be back.
    absl::Status status =
        writer_
            ->Call({"EVAL", kEndThisGenerationScript, "2", names_.leases(), names_.generation(),
                    known, names_.channel(), MessageOf('a', "")},
                   deadline)
            .status();
    if (!status.ok()) return status;
    known.clear();
  }
  generations_.Learn(version, {.generation = std::move(known)});
  return absl::OkStatus();
}

void Link::PlayKept() {
  std::vector<Change> kept = changes_.TakeKept();
  for (Change& change : kept) Send(std::move(change));
  if (!kept.empty()) return;
  playing_ = false;
  // Not before: a server that refuses the changes is not asked again and again.
  backoff_.Reset();
  {
    const MutexLock lock(mutex_);
    connected_ = true;
  }
  dispatcher_->Post({.kind = Notice::Kind::kConnected});
}

void Link::Lose(const absl::Status& reason) {
  bool was_connected = false;
  {
    const MutexLock lock(mutex_);
    was_connected = std::exchange(connected_, false);
    condition_ = Text("not connected: ", std::string(reason.message()));
  }
  std::vector<Change> unanswered;
  for (Sent& sent : sent_) unanswered.push_back(std::move(sent.change));
  sent_.clear();
  sent_bytes_ = 0;
  playing_ = false;
  if (writer_ != nullptr) writer_->DropUnsent();
  writer_.reset();
  notices_.reset();
  TierCounters::Add(counters_.errors);
  if (absl::IsDeadlineExceeded(reason)) TierCounters::Add(counters_.timeouts);
  // Before the listeners: what they load from then on waits for no answer that does not come.
  changes_.Close(std::move(unanswered));
  generations_.ForgetAll();
  if (was_connected) dispatcher_->Post({.kind = Notice::Kind::kDisconnected});
  waiters_.WakeAll();
  answered_condition_.NotifyAll();
  retry_ = steady_clock::now() + backoff_.Next();
}

absl::Status Link::Serve() {
  if (!playing_) SendQueued();
  SendQuestion();
  SendDue(steady_clock::now());
  // What the system takes at once says nothing of the server; what it takes after it was full does.
  const bool was_full = writer_full_;
  if (absl::StatusOr<bool> wrote = writer_->Write(); !wrote.ok()) {
    return wrote.status();
  } else if (*wrote && was_full) {
    writer_active_ = steady_clock::now();
  }
  writer_full_ = writer_->wants_write();
  if (absl::Status status = notices_->Write().status(); !status.ok()) return status;
  if (absl::Status status = AwaitFiles(); !status.ok()) return status;
  if (absl::Status status = ReceiveNotices(); !status.ok()) return status;
  if (absl::Status status = ReceiveReplies(); !status.ok()) return status;
  if (playing_ && sent_.empty()) PlayKept();
  const Deadline now = steady_clock::now();
  const Deadline::duration hard = ToDuration(options_.hard_timeout);
  if ((!sent_.empty() && now - writer_active_ >= hard) ||
      (notices_asked_ && now - notices_active_ >= hard)) {
    return absl::DeadlineExceededError("Redis has not answered in time");
  }
  return absl::OkStatus();
}

absl::Status Link::AwaitFiles() {
  const Deadline::duration hard = ToDuration(options_.hard_timeout);
  const Deadline::duration heartbeat = ToDuration(options_.heartbeat_interval);
  Deadline until = writer_active_ + (sent_.empty() ? heartbeat : hard);
  until = std::min(until, notices_active_ + (notices_asked_ ? hard : heartbeat));
  until = Bounded(std::min(until, leases_.NextDue()));
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(until - steady_clock::now()).count();
  pollfd files[] = {
      {.fd = wake_pipe_.fd(), .events = POLLIN, .revents = 0},
      {.fd = writer_->fd(), .events = POLLIN, .revents = 0},
      {.fd = notices_->fd(), .events = POLLIN, .revents = 0},
  };
  if (writer_->wants_write()) files[1].events |= POLLOUT;
  if (notices_->wants_write()) files[2].events |= POLLOUT;
  poll(files, 3, static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX)));
  if (files[0].revents != 0) wake_pipe_.Clear();
  return absl::OkStatus();
}

void Link::SendQueued() {
  while (sent_.size() < kMaxSent && sent_bytes_ < kMaxSentBytes) {
    // Its place first: a change that has been popped must not be lost for want of memory.
    const bool was_idle = sent_.empty();
    Sent& sent = sent_.emplace_back();
    std::optional<Change> change = changes_.Pop();
    if (!change.has_value()) {
      sent_.pop_back();
      return;
    }
    if (was_idle) BeginToWait();
    Fill(sent, *std::move(change));
  }
}

void Link::SendDue(Deadline now) {
  for (HeldLeases::Lease& lease : leases_.TakeDue(now)) {
    Send({.kind = Change::Kind::kProlong,
          .key = std::move(lease.key),
          .lease = std::move(lease.token)});
  }
  const Deadline::duration heartbeat = ToDuration(options_.heartbeat_interval);
  if (sent_.empty() && now - writer_active_ >= heartbeat) Send({.kind = Change::Kind::kPing});
  if (!notices_asked_ && now - notices_active_ >= heartbeat) {
    notices_->Append({"PING"});
    notices_asked_ = true;
    notices_active_ = now;
  }
}

void Link::Send(Change change) {
  if (sent_.empty()) BeginToWait();
  Fill(sent_.emplace_back(), std::move(change));
}

void Link::BeginToWait() {
  writer_active_ = steady_clock::now();
  writer_full_ = true;  // whatever the system takes next was not sent before
}

void Link::Fill(Sent& sent, Change&& change) {
  sent.generations_version = generations_.version();
  sent_bytes_ += change.sealed.size();
  sent.change = std::move(change);
  sent.replies = AppendCommands(sent.change, generations_.Current(sent.change.group));
}

size_t Link::AppendCommands(Change& change, const ValueTag& tag) {
  switch (change.kind) {
    case Change::Kind::kPut:
      return AppendPut(change, tag);
    case Change::Kind::kErase:
      return AppendErase(change);
    case Change::Kind::kEraseGroup:
    case Change::Kind::kEraseAll:
      return AppendEndGeneration(change);
    case Change::Kind::kEndLead:
      writer_->Append({"EVAL", kEndLeadScript, "1", names_.Lease(change.key), change.lease,
                       names_.channel(), MessageOf('w', change.key)});
      return 1;
    case Change::Kind::kProlong:
      writer_->Append({"EVAL", kProlongScript, "1", names_.Lease(change.key), change.lease,
                       Text(absl::ToInt64Milliseconds(options_.lease_duration))});
      return 1;
    case Change::Kind::kDropChunks:
      for (uint32_t i = 0; i < change.chunks.chunks; ++i) {
        writer_->Append({"UNLINK", names_.Chunk(change.chunks.id, i)});
      }
      return change.chunks.chunks;
    case Change::Kind::kPing:
      writer_->Append({"PING"});
      return 1;
  }
  return 0;
}

size_t Link::AppendPut(Change& change, const ValueTag& tag) {
  const std::string temporary = names_.Temporary(id_);
  const std::string ready = names_.Ready(id_);
  const std::string lease = names_.Lease(change.key);
  const std::string group = names_.Group(change.group);
  const std::string fresh = MakeGeneration(identity_.run);
  const std::string message = MessageOf('w', change.key);
  std::vector<std::string_view> script = {
      "EVAL", kPutScript, "5", temporary, ready, lease, names_.generation(), names_.leases()};
  if (tag.group.has_value()) {
    script[2] = "6";
    script.push_back(group);
  }
  const std::string value = names_.Value(change.key);
  const std::string chunk_prefix = names_.chunk_prefix();
  const std::string field = KeyNames::GroupField(change.group.value_or(0));
  const std::string own_channel = events_told_ ? names_.OwnChannel(id_) : std::string();
  script.insert(script.end(),
                {change.lease, tag.generation, tag.group_generation, fresh, names_.channel(),
                 message, value, chunk_prefix, field, own_channel, change.key});
  if (tag.generation.empty() || (tag.group.has_value() && tag.group_generation.empty())) {
    // Asks for the generations without the value.
    writer_->Append(script);
    return 1;
  }
  const std::string time = TimeOf(change);
  const size_t chunks = AppendChunks(change, time);
  writer_->Append({"MULTI"});
  AppendValue(temporary, time, MakeHeader(tag, change.key, chunks > 0),
              chunks > 0 ? TierBytes(MakeManifest(change.chunks)) : change.sealed);
  writer_->Append(script);
  writer_->Append({"RENAME", ready, value});
  writer_->Append({"EXEC"});
  return chunks + 5;
}

void Link::AppendValue(std::string_view name, std::string_view time, std::string_view header,
                       const TierBytes& body) {
  if (time.empty()) {
    writer_->AppendWithBody({"SET", name}, header, body);
  } else {
    writer_->AppendWithBody({"PSETEX", name, time}, header, body);
  }
}

// Adds the commands that write the pieces of a large value, if it is one, and returns their number.
size_t Link::AppendChunks(Change& change, std::string_view time) {
  if (change.sealed.size() <= options_.chunk_bytes) return 0;
  change.chunks = {.id = RandomDigits(), .bytes = change.sealed.size()};
  const auto owner = std::make_shared<const TierBytes>(change.sealed);
  const std::string_view all = owner->view();
  for (size_t start = 0; start < all.size(); start += options_.chunk_bytes) {
    AppendValue(names_.Chunk(change.chunks.id, change.chunks.chunks++), time, {},
                TierBytes(all.substr(start, options_.chunk_bytes), owner));
  }
  return change.chunks.chunks;
}

void Link::DropChunks(Manifest chunks) {
  if (chunks.chunks == 0) return;
  Send({.kind = Change::Kind::kDropChunks, .chunks = std::move(chunks)});
}

size_t Link::AppendErase(const Change& change) {
  const std::string value = names_.Value(change.key);
  const std::string lease = names_.Lease(change.key);
  const std::string message = MessageOf('c', change.key);
  // In one step, where an expiry is not told as a change: an entry that the script has found must
  // not expire, or be evicted, before the DEL.
  if (events_told_) writer_->Append({"MULTI"});
  // The lease first: no load that began earlier puts its object after the DEL.
  writer_->Append(
      {"EVAL", kEraseScript, "2", value, lease, names_.channel(), message, names_.chunk_prefix()});
  writer_->Append({"DEL", value});
  if (!events_told_) return 2;
  writer_->Append({"EXEC"});
  return 4;
}

size_t Link::AppendEndGeneration(const Change& change) {
  const bool all = change.kind == Change::Kind::kEraseAll;
  const std::string digits = GroupDigits(change.group);
  const std::string generation = all ? names_.generation() : names_.Group(change.group);
  const std::string message = all ? MessageOf('a', "") : MessageOf('g', digits);
  const std::string field = all ? std::string() : KeyNames::GroupField(*change.group);
  writer_->Append({"EVAL", kEndGenerationScript, "2", names_.leases(), generation, names_.channel(),
                   message, field});
  return 1;
}

std::string Link::MessageOf(char kind, std::string_view about) const {
  return Text(id_, std::string_view(&kind, 1), about);
}

std::string Link::TimeOf(const Change& change) const {
  const absl::Duration time = std::min(change.expires - absl::Now(), options_.max_age);
  if (time == absl::InfiniteDuration()) return {};
  return Text(std::max<int64_t>(absl::ToInt64Milliseconds(time), 1));
}

absl::Status Link::ReceiveReplies() {
  absl::StatusOr<bool> any = writer_->Read();
  if (!any.ok()) return any.status();
  if (!*any) return absl::OkStatus();
  writer_active_ = steady_clock::now();
  while (true) {
    const absl::StatusOr<ReplyPointer> reply = writer_->Next();
    if (!reply.ok()) return reply.status();
    if (*reply == nullptr) return absl::OkStatus();
    if (sent_.empty()) return absl::UnavailableError("Redis has answered what nobody has asked");
    Sent& first = sent_.front();
    if (first.error.ok()) first.error = ErrorIn(first.change, **reply);
    if (--first.replies > 0) continue;
    // Whoever has made it was told that it is kept. Without it, nobody may read.
    if (!first.error.ok() && first.change.is_kept() && !first.change.done) return first.error;
    Sent sent = std::move(first);
    sent_.pop_front();
    sent_bytes_ -= sent.change.sealed.size();
    Complete(std::move(sent), **reply);
  }
}

void Link::Complete(Sent sent, const redisReply& last) {
  Change& change = sent.change;
  switch (change.kind) {
    case Change::Kind::kPut:
      return CompletePut(std::move(sent), last);
    case Change::Kind::kEraseGroup:
      generations_.ForgetGroup(*change.group);
      break;
    case Change::Kind::kEraseAll:
      generations_.ForgetAll();
      break;
    case Change::Kind::kProlong:
      if (last.type == REDIS_REPLY_INTEGER && last.integer == 0) leases_.Remove(change.lease);
      return;
    case Change::Kind::kEndLead:
      if (change.erases) return CompleteEndLead(std::move(sent), last);
      break;
    case Change::Kind::kErase:
    case Change::Kind::kDropChunks:
    case Change::Kind::kPing:
      break;
  }
  if (!sent.error.ok()) counters_.AddFailure(sent.error);
  if (change.kind == Change::Kind::kEraseGroup || change.kind == Change::Kind::kEraseAll) {
    waiters_.WakeAll();
  } else {
    waiters_.Wake(change.key);
  }
  changes_.Finish(std::move(change), sent.error);
}

// After the lease of a Put that can't be written, the former value goes, with a command of its own:
// what a script erases would be told to this process, too.
void Link::CompleteEndLead(Sent sent, const redisReply& last) {
  Change& change = sent.change;
  waiters_.Wake(change.key);
  if (!sent.error.ok()) {
    counters_.AddFailure(sent.error);
    return changes_.Finish(std::move(change), sent.error);
  }
  if (last.type == REDIS_REPLY_INTEGER && last.integer == 0) {
    TierCounters::Add(counters_.leases_lost);
    return changes_.Finish(std::move(change), absl::AbortedError("the lease is not held any more"));
  }
  Send({.kind = Change::Kind::kErase, .key = change.key, .done = std::move(change.done)});
}

void Link::CompletePut(Sent sent, const redisReply& last) {
  Change& change = sent.change;
  const Manifest chunks = std::exchange(change.chunks, {});
  if (!sent.error.ok()) {
    DropChunks(chunks);
    return FailPut(std::move(change), sent.error);
  }
  const bool whole = last.type == REDIS_REPLY_ARRAY && last.elements == 3;
  const redisReply& result = whole ? *last.element[1] : last;
  // Unless the value has been put, nobody will read its pieces.
  if (result.type != REDIS_REPLY_INTEGER || result.integer == 0) DropChunks(chunks);
  if (absl::Status error = ErrorOf(result); !error.ok()) return FailPut(std::move(change), error);
  if (result.type == REDIS_REPLY_ARRAY && result.elements == 2) {
    ValueTag tag = {.generation = std::string(TextOf(*result.element[0])), .group = change.group};
    if (tag.group.has_value()) tag.group_generation = TextOf(*result.element[1]);
    generations_.Learn(sent.generations_version, tag);
    if (IsSuperseded(change)) return changes_.Finish(std::move(change), absl::OkStatus());
    if (IsErasedWithGroup(change)) {
      // The former value may be of another group.
      return Send(
          {.kind = Change::Kind::kErase, .key = change.key, .done = std::move(change.done)});
    }
    if (++change.attempts < kMaxAttempts) return Send(std::move(change));
    return FailPut(std::move(change), absl::UnavailableError("all is erased again and again"));
  }
  absl::Status status = absl::AbortedError("the lease is not held any more");
  if (result.type != REDIS_REPLY_INTEGER || result.integer != 0) {
    status = whole ? ErrorOf(*last.element[2]) : absl::UnavailableError("an unexpected reply");
    if (!status.ok()) return FailPut(std::move(change), status);
    TierCounters::Add(counters_.puts);
    TierCounters::Add(counters_.bytes_written, change.object_bytes);
  } else {
    TierCounters::Add(counters_.leases_lost);
  }
  waiters_.Wake(change.key);
  changes_.Finish(std::move(change), status);
}

bool Link::IsSuperseded(const Change& put) const {
  if (!put.lease.empty()) return false;
  return std::any_of(sent_.begin(), sent_.end(), [&put](const Sent& later) {
    const Change& change = later.change;
    return change.kind == Change::Kind::kEraseAll || (change.is_kept() && change.key == put.key);
  });
}

bool Link::IsErasedWithGroup(const Change& put) const {
  if (!put.lease.empty()) return false;
  return std::any_of(sent_.begin(), sent_.end(), [&put](const Sent& later) {
    return later.change.kind == Change::Kind::kEraseGroup && later.change.group == put.group;
  });
}

void Link::FailPut(Change change, const absl::Status& status) {
  counters_.AddFailure(status);
  // The former value has to go all the same; and nobody need wait for the new one.
  Change instead = {.kind = change.lease.empty() ? Change::Kind::kErase : Change::Kind::kEndLead,
                    .key = change.key,
                    .lease = change.lease,
                    .erases = true};
  if (change.done) {
    instead.done = [done = std::move(change.done), status](const absl::Status&) { done(status); };
  }
  Send(std::move(instead));
}

absl::Status Link::ReceiveNotices() {
  absl::StatusOr<bool> any = notices_->Read();
  if (!any.ok()) return any.status();
  if (!*any) return absl::OkStatus();
  notices_active_ = steady_clock::now();
  notices_asked_ = false;
  while (true) {
    const absl::StatusOr<ReplyPointer> reply = notices_->Next();
    if (!reply.ok()) return reply.status();
    if (*reply == nullptr) return absl::OkStatus();
    // A refused question for a sign of life is one.
    if (absl::Status status = ErrorOf(**reply); !status.ok()) counters_.AddFailure(status);
    TakeNotice(**reply);
  }
}

void Link::SendQuestion() {
  uint64_t last = 0;
  {
    const MutexLock lock(mutex_);
    last = questions_ > answered_ ? questions_ : 0;
  }
  if (last <= sent_question_) return;
  sent_question_ = last;
  notices_->Append({"PING", Text(last)});
}

void Link::TakeAnswer(std::string_view number) {
  uint64_t answered = 0;
  std::from_chars(number.data(), number.data() + number.size(), answered);
  {
    const MutexLock lock(mutex_);
    answered_ = std::max(answered_, answered);
  }
  answered_condition_.NotifyAll();
}

void Link::TakeNotice(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ARRAY) return;
  if (reply.elements == 2 && TextOf(*reply.element[0]) == "pong") {
    return TakeAnswer(TextOf(*reply.element[1]));
  }
  if (reply.elements == 4 && TextOf(*reply.element[0]) == "pmessage") {
    return TakeEvent(TextOf(*reply.element[2]), TextOf(*reply.element[3]));
  }
  if (reply.elements != 3 || TextOf(*reply.element[0]) != "message") return;
  const std::string_view channel = TextOf(*reply.element[1]);
  if (channel == kInvalidations) {
    TakeInvalidation(*reply.element[2]);
  } else if (channel == names_.channel()) {
    TakeMessage(TextOf(*reply.element[2]));
  } else if (channel == names_.OwnChannel(id_)) {
    events_.NoteOwnPut(TextOf(*reply.element[2]));
  }
}

void Link::TakeEvent(std::string_view channel, std::string_view event) {
  const std::string prefix = EventPrefix(options_.database);
  if (!StartsWith(channel, prefix)) return;
  const std::optional<std::string_view> key = names_.KeyOf(channel.substr(prefix.size()));
  if (key.has_value()) events_.Take(*key, event);
}

void Link::TakeInvalidation(const redisReply& keys) {
  if (keys.type != REDIS_REPLY_ARRAY) {
    events_.Clear();
    generations_.ForgetAll();
    Tell({.kind = Notice::Kind::kAllErased});
    return waiters_.WakeAll();
  }
  for (size_t i = 0; i < keys.elements; ++i) {
    const std::optional<std::string_view> key = names_.KeyOf(TextOf(*keys.element[i]));
    if (!key.has_value()) continue;
    if (events_.TakeNotice(*key)) {
      Tell({.kind = Notice::Kind::kChanged, .key = std::string(*key)});
    }
    waiters_.Wake(*key);
  }
  events_.EndNotices();
}

void Link::TakeMessage(std::string_view text) {
  if (text.size() <= kRandomDigits || text.substr(0, kRandomDigits) == id_) return;
  const char kind = text[kRandomDigits];
  const std::string_view about = text.substr(kRandomDigits + 1);
  if (kind == 'w' || kind == 'c') {
    if (kind == 'c') Tell({.kind = Notice::Kind::kChanged, .key = std::string(about)});
    waiters_.Wake(about);
  } else if (kind == 'g') {
    uint32_t group = 0;
    std::from_chars(about.data(), about.data() + about.size(), group, 16);
    generations_.ForgetGroup(group);
    Tell({.kind = Notice::Kind::kGroupErased, .group = group});
    waiters_.WakeAll();
  } else if (kind == 'a') {
    generations_.ForgetAll();
    Tell({.kind = Notice::Kind::kAllErased});
    waiters_.WakeAll();
  }
}

void Link::Tell(Notice notice) {
  TierCounters::Add(counters_.notices);
  dispatcher_->Post(std::move(notice));
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
