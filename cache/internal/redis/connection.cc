// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "weakcache/cache/internal/redis/text.h"

namespace weakcache::internal {
namespace {

constexpr size_t kReadBytes = 256 * 1024;
constexpr size_t kMaxIovecs = 64;

absl::Status SystemError(std::string_view what) {
  return absl::UnavailableError(Text(what, ": ", std::strerror(errno)));
}

absl::Status ProtocolError(const redisReader& reader) {
  return absl::UnavailableError(Text("not a reply of Redis: ", reader.errstr));
}

}  // namespace

Deadline After(absl::Duration duration) {
  using std::chrono::steady_clock;
  const steady_clock::time_point now = steady_clock::now();
  // A century is as good as infinite, and does not overflow.
  const absl::Duration bounded = std::min(duration, absl::Hours(24 * 365 * 100));
  return now +
         std::chrono::duration_cast<steady_clock::duration>(absl::ToChronoNanoseconds(bounded));
}

absl::Status ErrorOf(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ERROR) return absl::OkStatus();
  const std::string_view text = TextOf(reply);
  if (StartsWith(text, "MOVED") || StartsWith(text, "ASK ")) {
    return absl::FailedPreconditionError(
        Text("Redis Cluster is not supported; the server says: ", text));
  }
  if (StartsWith(text, "OOM")) return absl::ResourceExhaustedError(std::string(text));
  return absl::UnavailableError(Text("Redis: ", text));
}

absl::Status AwaitEvents(int fd, short events, Deadline deadline) {
  while (true) {
    const auto left = deadline - std::chrono::steady_clock::now();
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    if (milliseconds <= 0) return absl::DeadlineExceededError("Redis has not answered in time");
    pollfd file = {.fd = fd, .events = events, .revents = 0};
    const int ready = poll(&file, 1, static_cast<int>(std::min<int64_t>(milliseconds, INT_MAX)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return SystemError("poll");
  }
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const RedisAddress& address,
                                                             const RedisTierOptions& options,
                                                             Deadline deadline) {
  redisContext* const context = address.unix_socket.empty()
                                    ? redisConnectNonBlock(address.host.c_str(), address.port)
                                    : redisConnectUnixNonBlock(address.unix_socket.c_str());
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for a connection");
  auto connection = std::make_unique<Connection>(context);
  // So that a process that this one starts does not keep the connection. (hiredis can't be told
  // to.)
  if (context->fd >= 0) (void)fcntl(context->fd, F_SETFD, FD_CLOEXEC);
  if (context->err != 0) {
    return absl::UnavailableError(Text("can't connect to Redis: ", context->errstr));
  }
  if (absl::Status status = AwaitEvents(context->fd, POLLOUT, deadline); !status.ok()) {
    return absl::DeadlineExceededError("can't connect to Redis in time");
  }
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(context->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    errno = error;
    return SystemError("can't connect to Redis");
  }
  if (absl::Status status = connection->Greet(options, deadline); !status.ok()) return status;
  return connection;
}

Connection::Connection(redisContext* context) : context_(context), arrived_(kReadBytes) {
  // Keeps a buffer of that size for the next reply.
  if (context->reader != nullptr) context->reader->maxbuf = 1 << 20;
}

absl::Status Connection::Greet(const RedisTierOptions& options, Deadline deadline) {
  if (!options.password.empty()) {
    std::vector<std::string_view> command = {"AUTH"};
    if (!options.user.empty()) command.push_back(options.user);
    command.push_back(options.password);
    if (absl::Status status = Call(command, deadline).status(); !status.ok()) return status;
  }
  if (options.database == 0) return absl::OkStatus();
  const std::string database = Text(options.database);
  return Call({"SELECT", database}, deadline).status();
}

void Connection::AppendArguments(absl::Span<const std::string_view> arguments, size_t count) {
  ++unanswered_;
  AppendText(unsent_, "*", count, "\r\n");
  for (const std::string_view argument : arguments) {
    AppendText(unsent_, "$", argument.size(), "\r\n", argument, "\r\n");
  }
}

void Connection::Append(absl::Span<const std::string_view> arguments) {
  AppendArguments(arguments, arguments.size());
}

void Connection::AppendWithBody(absl::Span<const std::string_view> arguments,
                                std::string_view header, const TierBytes& body) {
  AppendArguments(arguments, arguments.size() + 1);
  AppendText(unsent_, "$", header.size() + body.size(), "\r\n", header);
  // What ends the argument follows the body.
  pieces_.emplace_back(std::exchange(unsent_, "\r\n"));
  pieces_.push_back(body);
}

absl::StatusOr<bool> Connection::Write() {
  bool any = false;
  while (wants_write()) {
    if (!unsent_.empty()) pieces_.emplace_back(std::exchange(unsent_, std::string()));
    iovec vectors[kMaxIovecs];
    size_t count = 0;
    for (const TierBytes& piece : pieces_) {
      if (count == kMaxIovecs) break;
      const size_t skipped = count == 0 ? sent_of_first_ : 0;
      vectors[count++] = {.iov_base = const_cast<char*>(piece.view().data() + skipped),
                          .iov_len = piece.size() - skipped};
    }
    msghdr message = {};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(context_->fd, &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      return SystemError("connection to Redis lost");
    }
    any = true;
    sent_of_first_ += static_cast<size_t>(sent);
    while (!pieces_.empty() && sent_of_first_ >= pieces_.front().size()) {
      sent_of_first_ -= pieces_.front().size();
      pieces_.pop_front();
    }
  }
  return any;
}

absl::StatusOr<bool> Connection::Read() {
  bool any = false;
  while (true) {
    const ssize_t got = recv(context_->fd, arrived_.data(), arrived_.size(), 0);
    if (got == 0) return absl::UnavailableError("Redis has closed the connection");
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return any;
      return SystemError("connection to Redis lost");
    }
    any = true;
    if (redisReaderFeed(context_->reader, arrived_.data(), static_cast<size_t>(got)) != REDIS_OK) {
      return ProtocolError(*context_->reader);
    }
    // Probably all: another look would cost as much as this one.
    if (static_cast<size_t>(got) < arrived_.size()) return any;
  }
}

absl::StatusOr<ReplyPointer> Connection::Next() {
  void* reply = nullptr;
  if (redisReaderGetReply(context_->reader, &reply) != REDIS_OK) {
    return ProtocolError(*context_->reader);
  }
  if (reply == nullptr) return ReplyPointer();
  --unanswered_;
  return ReplyPointer(static_cast<redisReply*>(reply),
                      [](redisReply* whole) { freeReplyObject(whole); });
}

absl::StatusOr<ReplyPointer> Connection::Await(Deadline deadline) {
  while (true) {
    absl::StatusOr<ReplyPointer> reply = Next();
    if (!reply.ok() || *reply != nullptr) return reply;
    if (absl::Status status = Write().status(); !status.ok()) return status;
    const short events = static_cast<short>(wants_write() ? POLLIN | POLLOUT : POLLIN);
    if (absl::Status status = AwaitEvents(fd(), events, deadline); !status.ok()) return status;
    if (absl::Status status = Read().status(); !status.ok()) return status;
  }
}

absl::StatusOr<ReplyPointer> Connection::Call(absl::Span<const std::string_view> arguments,
                                              Deadline deadline) {
  Append(arguments);
  absl::StatusOr<ReplyPointer> reply = Await(deadline);
  if (!reply.ok()) return reply;
  if (absl::Status status = ErrorOf(**reply); !status.ok()) return status;
  return reply;
}

bool Connection::IsInStep() const {
  // A surplus reply would be taken for that of the next command.
  const redisReader& reader = *context_->reader;
  return trusted_ && unanswered_ == 0 && reader.pos == reader.len && !wants_write();
}

void Connection::DropUnsent() {
  const linger none = {.l_onoff = 1, .l_linger = 0};
  setsockopt(context_->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

bool Connection::IsQuiet() const {
  if (!IsInStep()) return false;
  pollfd file = {.fd = context_->fd, .events = POLLIN, .revents = 0};
  return poll(&file, 1, 0) == 0;
}

absl::StatusOr<RedisAddress> Connection::Peer(const RedisAddress& address) const {
  if (!address.unix_socket.empty()) return address;
  sockaddr_storage peer = {};
  socklen_t size = sizeof(peer);
  if (getpeername(context_->fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) {
    return SystemError("getpeername");
  }
  char host[NI_MAXHOST] = {};
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&peer), size, host, sizeof(host), nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    return absl::UnavailableError("getnameinfo");
  }
  RedisAddress numeric = address;
  numeric.host = host;
  return numeric;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
