// SPDX-License-Identifier: Apache-2.0
// A connection to a Redis server. Only Open, Await and Call block, until a deadline; but to resolve
// the host's name takes as long as the system takes. hiredis connects and parses the replies.
// Bodies are sent from where they are, without a copy.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_CONNECTION_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_CONNECTION_H_

#include <hiredis/hiredis.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weakcache/cache/redis_tier_options.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache::internal {

using Deadline = std::chrono::steady_clock::time_point;
using ReplyPointer = std::shared_ptr<redisReply>;

// Returns `duration` from now on, as far as the clock goes.
Deadline After(absl::Duration duration);

inline std::string_view TextOf(const redisReply& reply) {
  return reply.str == nullptr ? std::string_view() : std::string_view(reply.str, reply.len);
}
inline bool StartsWith(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}
inline bool IsText(const redisReply& reply) { return reply.type == REDIS_REPLY_STRING; }

// The error that a reply is, or OK. MOVED and ASK say that Cluster is not supported.
absl::Status ErrorOf(const redisReply& reply);

// Waits until the file has one of the events. DeadlineExceeded if it has not.
absl::Status AwaitEvents(int fd, short events, Deadline deadline);

// Thread-compatible. After an error it is of no more use.
class Connection {
 public:
  // Connects, and says who the client is and which database it wants.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const RedisAddress& address,
                                                          const RedisTierOptions& options,
                                                          Deadline deadline);

  explicit Connection(redisContext* context);

  // The epoch of the endpoint, for a connection that reads; else 0.
  uint64_t epoch() const { return epoch_; }
  void set_epoch(uint64_t epoch) { epoch_ = epoch; }

  int fd() const { return context_->fd; }
  bool wants_write() const { return !pieces_.empty() || !unsent_.empty(); }

  // Adds a command to what is to be sent.
  void Append(absl::Span<const std::string_view> arguments);
  // The same, with a further argument, which is `header`, then `body`.
  void AppendWithBody(absl::Span<const std::string_view> arguments, std::string_view header,
                      const TierBytes& body);
  // Sends as much as the system takes, and tells whether any.
  absl::StatusOr<bool> Write();
  // Takes what has arrived, and tells whether anything has.
  absl::StatusOr<bool> Read();
  // The next reply that has arrived whole, or null.
  absl::StatusOr<ReplyPointer> Next();

  // Sends everything, and waits for the next reply.
  absl::StatusOr<ReplyPointer> Await(Deadline deadline);
  // Sends a command, and waits for its reply; a reply that is an error is returned as a status.
  absl::StatusOr<ReplyPointer> Call(absl::Span<const std::string_view> arguments,
                                    Deadline deadline);

  // Returns whether each command has had its reply, and nothing more has come with them.
  bool IsInStep() const;
  // Marks the connection as out of step from now on: its replies are not those of its commands.
  void Distrust() { trusted_ = false; }
  // Returns whether it is in step, and nothing unasked has arrived, such as the connection's end.
  bool IsQuiet() const;
  // Makes the system forget, if it can, what has been written but has not left the machine.
  void DropUnsent();
  // Returns the address that the server's name stood for when it was connected.
  absl::StatusOr<RedisAddress> Peer(const RedisAddress& address) const;

 private:
  struct FreeContext {
    void operator()(redisContext* context) const { redisFree(context); }
  };

  void AppendArguments(absl::Span<const std::string_view> arguments, size_t count);
  absl::Status Greet(const RedisTierOptions& options, Deadline deadline);

  const std::unique_ptr<redisContext, FreeContext> context_;
  uint64_t epoch_ = 0;
  std::deque<TierBytes> pieces_;
  size_t sent_of_first_ = 0;
  std::string unsent_;      // follows the pieces
  int64_t unanswered_ = 0;  // commands
  bool trusted_ = true;
  std::vector<char> arrived_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_CONNECTION_H_
