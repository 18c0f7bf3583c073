// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/reading.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/redis/scripts.h"
#include "weakcache/cache/internal/redis/text.h"
#include "weakcache/cache/internal/tier/envelope.h"

namespace weakcache::internal {
namespace {

using std::chrono::steady_clock;

// For how long a load that was woken by a notice lets listeners hear that first.
constexpr absl::Duration kLongestHearing = absl::Milliseconds(200);

Backoff::Duration ToDuration(absl::Duration duration) {
  return std::chrono::duration_cast<Backoff::Duration>(absl::ToChronoNanoseconds(duration));
}

absl::Status Away() { return absl::UnavailableError("Redis is away"); }

absl::Status Unexpected(Connection& connection) {
  connection.Distrust();
  return absl::UnavailableError("an unexpected reply of Redis");
}

absl::Status NoEntry() { return absl::NotFoundError("no entry"); }

// Whether the server has said that it takes no writes, or none that need memory.
bool RefusesWrites(const absl::Status& status) {
  const std::string message(status.message());
  for (const char* code : {"OOM", "READONLY", "MISCONF", "NOREPLICAS"}) {
    if (message.find(code) != std::string::npos) return true;
  }
  return false;
}

// OK, or that the caller does not wait any more.
absl::Status CheckWait(const TierWait& wait) {
  if (wait.stop_token.stop_requested()) return absl::CancelledError("stop requested");
  if (steady_clock::now() >= wait.deadline) return absl::DeadlineExceededError("deadline passed");
  return absl::OkStatus();
}

}  // namespace

Reading::Reading(const RedisTierOptions& options, const KeyNames& names, TierCounters& counters,
                 Link& link)
    : options_(options),
      names_(names),
      counters_(counters),
      link_(link),
      readers_(options),
      breaker_(options.breaker_failures, Backoff(ToDuration(options.min_backoff),
                                                 ToDuration(options.max_backoff), RandomFraction)) {
}

Deadline Reading::DeadlineOf(const TierWait& wait) const {
  return std::min(wait.deadline, After(options_.soft_timeout));
}

absl::Status Reading::Ask(const TierWait& wait, absl::FunctionRef<absl::Status(Connection&)> ask) {
  if (absl::Status status = CheckWait(wait); !status.ok()) return status;
  const std::shared_ptr<const Endpoint> endpoint = link_.endpoint();
  if (endpoint == nullptr) return Away();
  if (!breaker_.Allow(steady_clock::now())) {
    return absl::UnavailableError("circuit breaker open: Redis has failed too often");
  }
  CircuitBreaker::Call call(breaker_);
  absl::Status status;
  bool has_answered = false;
  {
    absl::StatusOr<Readers::Reader> reader = readers_.Acquire(*endpoint, DeadlineOf(wait));
    if (absl::IsResourceExhausted(reader.status())) {
      counters_.AddFailure(reader.status());
      return reader.status();
    }
    status = reader.ok() ? ask(reader->connection()) : reader.status();
    has_answered = reader.ok() && reader->connection().IsInStep();
    if (has_answered) reader->SetReusable();
  }
  if (status.ok() || (has_answered && !absl::IsFailedPrecondition(status))) {
    call.Succeeded();
  } else if (const Deadline now = steady_clock::now(); now < wait.deadline) {
    call.Failed(now);
  }
  if (!status.ok()) {
    counters_.AddFailure(status);
    return status;
  }
  // What was read while notices were lost may be old.
  return link_.endpoint() == endpoint ? absl::OkStatus() : Away();
}

std::vector<absl::StatusOr<TierEntry>> Reading::Get(absl::Span<const std::string> keys,
                                                    const TierWait& wait) {
  std::vector<absl::StatusOr<TierEntry>> entries;
  absl::Status status;
  for (const std::string& key : keys) {
    status = AwaitChangesOf(key, wait);
    if (!status.ok()) break;
  }
  if (status.ok()) {
    status = Ask(wait, [&](Connection& connection) -> absl::Status {
      for (const std::string& key : keys) connection.Append({"GET", names_.Value(key)});
      std::vector<ReplyPointer> replies;
      for (size_t i = 0; i < keys.size(); ++i) {
        absl::StatusOr<ReplyPointer> reply = connection.Await(DeadlineOf(wait));
        if (!reply.ok()) return reply.status();
        replies.push_back(*std::move(reply));
      }
      for (size_t i = 0; i < keys.size(); ++i) {
        // An error of the connection is the last one's status, and that of all.
        entries.push_back(ReadEntry(connection, keys[i], std::exchange(replies[i], nullptr), wait));
        if (!entries.back().ok() && !absl::IsNotFound(entries.back().status())) {
          return entries.back().status();
        }
      }
      return absl::OkStatus();
    });
  }
  if (!status.ok()) entries.assign(keys.size(), status);
  for (const absl::StatusOr<TierEntry>& entry : entries) {
    if (entry.ok()) {
      TierCounters::Add(counters_.hits);
      TierCounters::Add(counters_.bytes_read, entry->bytes.size());
    } else if (absl::IsNotFound(entry.status())) {
      TierCounters::Add(counters_.misses);
    }
  }
  return entries;
}

absl::Status Reading::AwaitChangesOf(std::string_view key, const TierWait& wait) {
  absl::Status status = link_.changes().AwaitChangesOf(key, DeadlineOf(wait));
  if (absl::IsDeadlineExceeded(status)) counters_.AddFailure(status);
  return status;
}

absl::Status Reading::Damaged() {
  TierCounters::Add(counters_.errors);
  return NoEntry();
}

absl::StatusOr<TierEntry> Reading::ReadEntry(Connection& connection, std::string_view key,
                                             const ReplyPointer& reply, const TierWait& wait) {
  if (reply->type == REDIS_REPLY_NIL) return NoEntry();
  if (absl::Status error = ErrorOf(*reply); !error.ok()) {
    return StartsWith(TextOf(*reply), "WRONGTYPE") ? Damaged() : error;
  }
  if (!IsText(*reply)) return Damaged();
  const std::string_view value = TextOf(*reply);
  const std::optional<ValueTag> tag = ReadHeader(value);
  if (!tag.has_value()) return Damaged();
  if (!IsOfKey(value, key)) {
    // Perhaps it is the reply to another command.
    connection.Distrust();
    return Damaged();
  }
  if (!link_.generations().IsCurrent(*tag)) {
    if (absl::Status status = Refresh(connection, *tag, wait); !status.ok()) return status;
  }
  TierBytes sealed(value.substr(kHeaderBytes), reply);
  if (IsManifest(value)) {
    const std::optional<Manifest> manifest = ReadManifest(value);
    if (!manifest.has_value()) return Damaged();
    absl::StatusOr<TierBytes> whole = ReadChunks(connection, *manifest, wait);
    if (!whole.ok()) return whole.status();
    sealed = *std::move(whole);
  }
  absl::StatusOr<TierEntry> entry = OpenEntry(std::move(sealed), options_.max_value_bytes);
  if (!entry.ok()) return Damaged();
  if (entry->expires <= absl::Now()) return NoEntry();
  return entry;
}

// The pieces of a value, as one. NotFound if one is missing.
absl::StatusOr<TierBytes> Reading::ReadChunks(Connection& connection, const Manifest& manifest,
                                              const TierWait& wait) {
  // A size that makes no sense is not believed.
  if (manifest.bytes > options_.max_value_bytes + kEnvelopeBytes ||
      manifest.chunks > std::min(manifest.bytes, kMaxManifestChunks)) {
    return Damaged();
  }
  for (uint32_t i = 0; i < manifest.chunks; ++i) {
    connection.Append({"GET", names_.Chunk(manifest.id, i)});
  }
  std::string whole;
  whole.reserve(manifest.bytes);
  bool missing = false;
  for (uint32_t i = 0; i < manifest.chunks; ++i) {
    const absl::StatusOr<ReplyPointer> reply = connection.Await(DeadlineOf(wait));
    if (!reply.ok()) return reply.status();
    missing = missing || !IsText(**reply) || whole.size() + (*reply)->len > manifest.bytes;
    if (!missing) whole += TextOf(**reply);
  }
  if (missing || whole.size() != manifest.bytes) return NoEntry();
  return TierBytes(std::move(whole));
}

// Asks for the present generations; NotFound if they are not those of the tag.
absl::Status Reading::Refresh(Connection& connection, const ValueTag& tag, const TierWait& wait) {
  const uint64_t version = link_.generations().version();
  // After the version: what was forgotten when the connection was lost must not be learnt again by
  // one of before, as nothing would tell of its change. A loss after this look changes the version.
  const std::shared_ptr<const Endpoint> endpoint = link_.endpoint();
  if (endpoint == nullptr || endpoint->epoch != connection.epoch()) return Away();
  const std::string group = names_.Group(tag.group);
  std::vector<std::string_view> command = {"MGET", names_.generation()};
  if (tag.group.has_value()) command.push_back(group);
  const absl::StatusOr<ReplyPointer> reply = connection.Call(command, DeadlineOf(wait));
  if (!reply.ok()) return reply.status();
  if ((*reply)->type != REDIS_REPLY_ARRAY || (*reply)->elements != command.size() - 1) {
    return Unexpected(connection);
  }
  ValueTag now = {.generation = std::string(TextOf(*(*reply)->element[0])), .group = tag.group};
  if (tag.group.has_value()) now.group_generation = TextOf(*(*reply)->element[1]);
  link_.generations().Learn(version, now);
  const bool equal =
      tag.generation == now.generation && tag.group_generation == now.group_generation;
  return equal ? absl::OkStatus() : NoEntry();
}

absl::StatusOr<Reading::LeadAnswer> Reading::AskForLease(std::string_view key, bool ignore_value,
                                                         const TierWait& wait) {
  LeadAnswer answer;
  const std::string token = RandomDigits();
  absl::Status status = Ask(wait, [&](Connection& connection) -> absl::Status {
    const absl::StatusOr<ReplyPointer> called = connection.Call(
        {"EVAL", kLeadScript, "4", names_.Value(key), names_.Lease(key), names_.generation(),
         names_.leases(), token, Text(absl::ToInt64Milliseconds(options_.lease_duration)),
         RandomDigits(), ignore_value ? "1" : "0", names_.group_prefix()},
        DeadlineOf(wait));
    if (!called.ok()) return called.status();
    const redisReply& reply = **called;
    if (reply.type == REDIS_REPLY_INTEGER) {
      answer.has_value = true;
    } else if (IsText(reply)) {
      answer.lease = Text(token, TextOf(reply));
    } else if (reply.type == REDIS_REPLY_ARRAY && reply.elements == 1) {
      answer.held_for = absl::Milliseconds(std::max(reply.element[0]->integer, 0LL));
    } else {
      return Unexpected(connection);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return answer;
}

TierLead Reading::Hold(std::string_view key, std::string lease) {
  link_.HoldLease({.key = std::string(key), .token = lease});
  TierCounters::Add(counters_.leases_won);
  return {.lease = {.token = std::move(lease)}};
}

absl::StatusOr<TierLead> Reading::TryLead(std::string_view key) {
  const TierWait wait;
  absl::Status status = AwaitChangesOf(key, wait);
  if (!status.ok()) return status;
  absl::StatusOr<LeadAnswer> answer = AskForLease(key, /*ignore_value=*/true, wait);
  if (!answer.ok()) return answer.status();
  if (answer->lease.empty()) return TierLead{.is_taken = true};
  return Hold(key, std::move(answer->lease));
}

absl::StatusOr<TierLead> Reading::Lead(std::string_view key, const TierWait& wait) {
  const std::string own(key);
  const Deadline give_up = After(options_.lease_timeout);
  LeadWaiters::Waiter waiter(link_.waiters(), key);
  bool ignore_value = false;
  bool waited = false;
  while (true) {
    absl::Status status = AwaitChangesOf(key, wait);
    if (!status.ok()) return status;
    if (wait.before_look) wait.before_look();
    absl::StatusOr<LeadAnswer> answer = AskForLease(key, ignore_value, wait);
    // There is no entry then, and can be none.
    if (RefusesWrites(answer.status())) return TierLead{};
    if (!answer.ok()) return answer.status();
    if (answer->has_value) {
      absl::StatusOr<TierEntry> entry = std::move(Get({own}, wait).front());
      if (entry.ok()) return TierLead{.entry = *std::move(entry)};
      if (!absl::IsNotFound(entry.status())) return entry.status();
      // It is not a value, or it has gone at this moment.
      ignore_value = true;
      continue;
    }
    if (!answer->lease.empty()) return Hold(key, std::move(answer->lease));
    if (!std::exchange(waited, true)) TierCounters::Add(counters_.leases_awaited);
    if (steady_clock::now() >= give_up) return TierLead{};
    // The notice of its end wakes this thread. If its process is killed, the lease ends by itself.
    const Deadline lease_end = After(answer->held_for + absl::Milliseconds(1));
    waiter.Wait(std::min({wait.deadline, give_up, lease_end}), wait.stop_token);
    if (absl::Status left = CheckWait(wait); !left.ok()) return left;
    // Else the notice of the Put that this thread waits for would drop what it is about to read.
    link_.AwaitTold(std::min(wait.deadline, After(kLongestHearing)));
    ignore_value = false;
  }
}

absl::StatusOr<std::vector<std::string>> Reading::Scan(std::string& cursor,
                                                       const std::string& pattern) {
  std::vector<std::string> keys;
  const TierWait wait;
  absl::Status status = Ask(wait, [&](Connection& connection) -> absl::Status {
    const absl::StatusOr<ReplyPointer> reply =
        connection.Call({"SCAN", cursor, "MATCH", pattern, "COUNT", "512"}, DeadlineOf(wait));
    if (!reply.ok()) return reply.status();
    if ((*reply)->type != REDIS_REPLY_ARRAY || (*reply)->elements != 2) {
      return Unexpected(connection);
    }
    cursor = TextOf(*(*reply)->element[0]);
    const redisReply& names = *(*reply)->element[1];
    for (size_t i = 0; i < names.elements; ++i) {
      const std::optional<std::string_view> key = names_.KeyOf(TextOf(*names.element[i]));
      if (key.has_value()) keys.emplace_back(*key);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return keys;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
