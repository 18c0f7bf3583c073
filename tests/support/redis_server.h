// SPDX-License-Identifier: Apache-2.0
// A redis-server of a test's own, in a temporary folder, on a socket there.
#ifndef WEAKCACHE_TESTS_SUPPORT_REDIS_SERVER_H_
#define WEAKCACHE_TESTS_SUPPORT_REDIS_SERVER_H_

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "weakcache/cache/redis_tier_options.h"

extern char** environ;

namespace weakcache::testing {

// Looks until the condition holds, for at most ten seconds. Tells whether it does.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

class RedisServer {
 public:
  // Whether the program is on this machine.
  static bool IsInstalled() {
    for (const char* path : {"/usr/bin/redis-server", "/usr/local/bin/redis-server"}) {
      if (access(path, X_OK) == 0) return true;
    }
    return false;
  }

  explicit RedisServer(std::vector<std::string> arguments = {}) : arguments_(std::move(arguments)) {
    std::string pattern = (std::filesystem::temp_directory_path() / "redisXXXXXX").string();
    if (mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
    Start();
  }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;
  ~RedisServer() {
    Kill();
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }

  const std::string& folder() const { return folder_; }
  std::string socket() const { return folder_ + "/socket"; }

  // Starts the server, with the keys of the last SAVE if any, and waits until it has loaded them.
  bool Start() {
    std::vector<std::string> command = {"redis-server", "--port",      "0",     "--unixsocket",
                                        socket(),       "--save",      "",      "--appendonly",
                                        "no",           "--dir",       folder_, "--loglevel",
                                        "warning",      "--databases", "16"};
    command.insert(command.end(), arguments_.begin(), arguments_.end());
    std::vector<char*> pointers;
    for (std::string& argument : command) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    const int error =
        posix_spawnp(&process_, "redis-server", &actions, nullptr, pointers.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      process_ = 0;
      return false;
    }
    return Eventually([this] {
      const std::string reply = Command({"PING"});
      return reply != "(no reply)" && reply.find("LOADING") == std::string::npos;
    });
  }
  // Ends it as a crash would.
  void Kill() {
    if (process_ == 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  void Pause() { kill(process_, SIGSTOP); }
  void Resume() { kill(process_, SIGCONT); }

  // Sends a command as some other client. Returns the reply as text: "(nil)", "(no reply)", …
  std::string Command(const std::vector<std::string>& arguments) { return Pipeline({arguments}); }
  // Sends several at once, so that the server takes them one right after the other. Returns the
  // last reply.
  std::string Pipeline(const std::vector<std::vector<std::string>>& commands) {
    redisContext* const context = redisConnectUnixWithTimeout(socket().c_str(), timeval{1, 0});
    std::string text = "(no reply)";
    if (context != nullptr && context->err == 0) {
      redisSetTimeout(context, timeval{5, 0});
      for (const std::vector<std::string>& arguments : commands) {
        std::vector<const char*> words;
        std::vector<size_t> sizes;
        for (const std::string& argument : arguments) {
          words.push_back(argument.data());
          sizes.push_back(argument.size());
        }
        redisAppendCommandArgv(context, static_cast<int>(words.size()), words.data(), sizes.data());
      }
      for (size_t i = 0; i < commands.size(); ++i) {
        void* reply = nullptr;
        text = "(no reply)";
        if (redisGetReply(context, &reply) != REDIS_OK || reply == nullptr) break;
        text = ToText(*static_cast<redisReply*>(reply));
        freeReplyObject(reply);
      }
    }
    if (context != nullptr) redisFree(context);
    return text;
  }

 private:
  static std::string ToText(const redisReply& reply) {
    if (reply.type == REDIS_REPLY_NIL) return "(nil)";
    if (reply.type == REDIS_REPLY_INTEGER) return std::to_string(reply.integer);
    if (reply.type != REDIS_REPLY_ARRAY) return std::string(reply.str, reply.len);
    std::string text;
    for (size_t i = 0; i < reply.elements; ++i) text += ToText(*reply.element[i]) + "\n";
    return text;
  }

  const std::vector<std::string> arguments_;
  std::string folder_;
  pid_t process_ = 0;
};

// Returns options for a tier on the server. They are patient: a machine that is busy must not look
// like a server that is away.
inline RedisTierOptions TierOptions(const RedisServer& server) {
  RedisTierOptions options;
  options.key_namespace = "test";
  options.address.unix_socket = server.socket();
  options.connect_timeout = absl::Seconds(5);
  options.soft_timeout = absl::Seconds(5);
  options.hard_timeout = absl::Seconds(10);
  options.min_backoff = absl::Milliseconds(5);
  options.max_backoff = absl::Milliseconds(50);
  return options;
}

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_REDIS_SERVER_H_
