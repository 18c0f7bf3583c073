// SPDX-License-Identifier: Apache-2.0
// Stands between clients and a server, both on sockets in the file system, and does to what the
// server sends what a bad network does: delays it, cuts it off, sends half of it, or garbage.
#ifndef WEAKCACHE_TESTS_SUPPORT_FAULT_PROXY_H_
#define WEAKCACHE_TESTS_SUPPORT_FAULT_PROXY_H_

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace weakcache::testing {

class FaultProxy {
 public:
  // `seed` decides which faults come in which order.
  FaultProxy(std::string path, std::string server, unsigned seed)
      : path_(std::move(path)), server_(std::move(server)), seed_(seed) {
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = AddressOf(path_);
    (void)bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    (void)listen(listener_, 64);
    acceptor_ = std::thread([this] { Accept(); });
  }
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;
  ~FaultProxy() {
    stop_ = true;
    acceptor_.join();
    for (std::thread& thread : relays_) thread.join();
    close(listener_);
  }

  // One piece of what the server sends in `one_in` has a fault; 0: none.
  void SetFaults(int one_in) { one_in_ = one_in; }
  int faults() const { return faults_; }
  // From now on, or no longer, clients that have subscribed to a channel hear nothing.
  void SilenceSubscribers(bool silent) { silent_ = silent; }
  // The same for clients that have asked for tracking.
  void SilenceTrackers(bool silent) { trackers_silent_ = silent; }
  // Holds back what comes over the connections that there are, also if their clients give them up.
  void Hold() { held_ = connections_.load(); }
  void Release() { held_ = 0; }

 private:
  static sockaddr_un AddressOf(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    return address;
  }

  void Accept() {
    while (!stop_) {
      pollfd file = {.fd = listener_, .events = POLLIN, .revents = 0};
      if (poll(&file, 1, 10) <= 0) continue;
      const int client = accept(listener_, nullptr, nullptr);
      if (client < 0) continue;
      const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const sockaddr_un address = AddressOf(server_);
      (void)connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
      const int number = connections_++;
      relays_.emplace_back([this, client, server, number] { Relay(client, server, number); });
    }
  }

  // What the client of a connection has asked for.
  struct Asked {
    bool subscribed = false;
    bool tracking = false;
  };

  void Relay(int client, int server, int number) {
    std::minstd_rand random(seed_ + static_cast<unsigned>(number));
    bool open = true;
    Asked asked;
    while (open && !stop_) {
      if (number < held_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        continue;
      }
      pollfd files[] = {{.fd = client, .events = POLLIN, .revents = 0},
                        {.fd = server, .events = POLLIN, .revents = 0}};
      const bool silent = (asked.subscribed && silent_) || (asked.tracking && trackers_silent_);
      if (silent) files[1].fd = -1;  // which poll does not look at
      if (poll(files, 2, 10) <= 0) continue;
      if (number < held_) continue;  // since the look before the wait
      if (files[0].revents != 0) open = Pass(client, server, nullptr, &asked);
      if (open && files[1].revents != 0) open = Pass(server, client, &random, nullptr);
    }
    close(client);
    close(server);
  }

  // Returns false if that was the connection's end.
  bool Pass(int from, int to, std::minstd_rand* random, Asked* asked) {
    char bytes[4096];
    const ssize_t got = recv(from, bytes, sizeof(bytes), 0);
    if (got <= 0) return false;
    size_t size = static_cast<size_t>(got);
    if (asked != nullptr) {
      const std::string_view sent(bytes, size);
      asked->subscribed |= sent.find("SUBSCRIBE") != std::string_view::npos;
      asked->tracking |= sent.find("TRACKING") != std::string_view::npos;
    }
    const int one_in = one_in_;
    bool last = false;
    if (random != nullptr && one_in > 0 && (*random)() % static_cast<unsigned>(one_in) == 0) {
      ++faults_;
      switch ((*random)() % 4) {
        case 0:
          std::this_thread::sleep_for(std::chrono::milliseconds((*random)() % 100));
          break;
        case 1:
          return false;
        case 2:
          size /= 2;
          last = true;
          break;
        case 3:
          for (size_t i = 0; i < size && i < 16; ++i) bytes[i] = static_cast<char>((*random)());
          last = true;
          break;
      }
    }
    for (size_t sent = 0; sent < size;) {
      const ssize_t now = send(to, bytes + sent, size - sent, MSG_NOSIGNAL);
      if (now <= 0) return false;
      sent += static_cast<size_t>(now);
    }
    return !last;
  }

  const std::string path_;
  const std::string server_;
  const unsigned seed_;
  int listener_ = -1;
  std::atomic<bool> stop_{false};
  std::atomic<bool> silent_{false};
  std::atomic<bool> trackers_silent_{false};
  std::atomic<int> connections_{0};
  std::atomic<int> held_{0};  // the connections with lower numbers
  std::atomic<int> one_in_{0};
  std::atomic<int> faults_{0};
  std::vector<std::thread> relays_;  // of the acceptor, until that has ended
  std::thread acceptor_;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_FAULT_PROXY_H_
