// SPDX-License-Identifier: Apache-2.0
// Processes that this one starts, and talks to in lines.
#ifndef WEAKCACHE_EXAMPLES_SHARED_IMAGES_PROCESS_H_
#define WEAKCACHE_EXAMPLES_SHARED_IMAGES_PROCESS_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace shared_images {

// One end of a two-way connection between two processes.
class Lines {
 public:
  explicit Lines(int descriptor) : descriptor_(descriptor) {}
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  ~Lines();

  void Send(const std::string& line);
  // Waits for a line. Returns nothing once the other process has ended.
  std::optional<std::string> Receive();

 private:
  const int descriptor_;
  std::string received_;
};

// Runs a function in a process of its own, which ends with it, or with its parent.
class Worker {
 public:
  explicit Worker(const std::function<void(Lines&)>& run);
  Worker(Worker&&) = default;
  // Closes the connection, and waits until the process has ended.
  ~Worker();

  Lines& lines() { return *lines_; }

 private:
  std::unique_ptr<Lines> lines_;
  pid_t process_ = 0;
};

// A Redis server for one folder: its socket is there, and nothing else can reach it.
class RedisServer {
 public:
  explicit RedisServer(std::string folder) : folder_(std::move(folder)) {}
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;
  ~RedisServer() { Kill(); }

  // Whether there is a program to start.
  static bool IsInstalled();

  std::string socket() const { return folder_ + "/socket"; }
  // Returns false if it does not answer within ten seconds.
  bool Start();
  // Ends it at once, with all that it has.
  void Kill();

 private:
  bool Answers() const;

  const std::string folder_;
  pid_t process_ = 0;
};

}  // namespace shared_images

#endif  // WEAKCACHE_EXAMPLES_SHARED_IMAGES_PROCESS_H_
