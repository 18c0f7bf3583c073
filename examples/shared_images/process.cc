// SPDX-License-Identifier: Apache-2.0
#include "examples/shared_images/process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

namespace shared_images {
namespace {

[[noreturn]] void Fail(const char* call) {
  std::perror(call);
  std::abort();
}

void EndWithParent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
}

}  // namespace

// --- Lines
// -----------------------------------------------------------------------------------------

Lines::~Lines() { close(descriptor_); }

void Lines::Send(const std::string& line) {
  const std::string bytes = line + '\n';
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t size = send(descriptor_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (size < 0) return;  // it has ended: Receive tells
    sent += static_cast<size_t>(size);
  }
}

std::optional<std::string> Lines::Receive() {
  for (;;) {
    const size_t end = received_.find('\n');
    if (end != std::string::npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      return line;
    }
    char bytes[4096];
    const ssize_t size = recv(descriptor_, bytes, sizeof(bytes), 0);
    if (size <= 0) return std::nullopt;
    received_.append(bytes, static_cast<size_t>(size));
  }
}

// --- Worker
// ----------------------------------------------------------------------------------------

Worker::Worker(const std::function<void(Lines&)>& run) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) Fail("socketpair");
  std::fflush(nullptr);  // otherwise both processes would print what waits
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ < 0) Fail("fork");
  if (process_ == 0) {
    EndWithParent(parent);
    close(ends[0]);
    {
      Lines lines(ends[1]);
      run(lines);
    }
    _exit(0);  // the rest of this process is the parent's
  }
  close(ends[1]);
  lines_ = std::make_unique<Lines>(ends[0]);
}

Worker::~Worker() {
  if (lines_ == nullptr) return;
  lines_->Send("end");
  lines_ = nullptr;
  waitpid(process_, nullptr, 0);
}

// --- RedisServer
// -----------------------------------------------------------------------------------

bool RedisServer::IsInstalled() {
  const char* const path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/usr/bin" : path;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(':'), rest.size());
    if (access((std::string(rest.substr(0, end)) + "/redis-server").c_str(), X_OK) == 0)
      return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

bool RedisServer::Start() {
  std::filesystem::create_directories(folder_);
  std::filesystem::remove(socket());
  const pid_t parent = getpid();
  process_ = fork();
  if (process_ < 0) Fail("fork");
  if (process_ == 0) {
    EndWithParent(parent);
    const std::string log = folder_ + "/log";
    execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket().c_str(), "--dir",
           folder_.c_str(), "--logfile", log.c_str(), "--save", "", "--appendonly", "no",
           "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru", nullptr);
    Fail("redis-server");
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!Answers()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

void RedisServer::Kill() {
  if (process_ == 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = 0;
}

bool RedisServer::Answers() const {
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket().c_str(), sizeof(address.sun_path) - 1);
  const bool connected =
      connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(descriptor);
  return connected;
}

}  // namespace shared_images
