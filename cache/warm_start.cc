// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/warm_start.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

namespace weakcache {
namespace {

// For each key, a line with its uses and the length of its text, and the text on lines of its own:
// so a text may have any bytes. The last line has the number of keys, so a file that was cut off is
// not taken for a shorter one.
constexpr std::string_view kTitle = "weakcache hot keys, format 1\n";
constexpr std::string_view kEnd = "end ";
constexpr uint64_t kMaxTextBytes = uint64_t{1} << 20;

absl::Status Failed(const char* what, const std::string& file) {
  return absl::UnavailableError(std::string("WriteHotKeys: can't ") + what + " " + file + ": " +
                                std::strerror(errno));
}

absl::Status Damaged() { return absl::DataLossError("ReadHotKeys: not what was written"); }

// Reads a number that ends with this character.
std::optional<uint64_t> ReadNumber(std::istream& in, char end) {
  std::string digits;
  constexpr size_t kMaxDigits = 20;
  for (int next = in.get(); next != end; next = in.get()) {
    if (next < '0' || next > '9' || digits.size() == kMaxDigits) return std::nullopt;
    digits += static_cast<char>(next);
  }
  uint64_t number = 0;
  const char* const last = digits.data() + digits.size();
  const auto [rest, error] = std::from_chars(digits.data(), last, number);
  if (error != std::errc() || rest != last) return std::nullopt;
  return number;
}

std::optional<HotKey> ReadHotKey(std::istream& in) {
  const std::optional<uint64_t> uses = ReadNumber(in, ' ');
  const std::optional<uint64_t> size = ReadNumber(in, '\n');
  if (!uses || !size || *uses > UINT32_MAX || *size > kMaxTextBytes) return std::nullopt;
  HotKey key;
  key.uses = static_cast<uint32_t>(*uses);
  key.text.resize(static_cast<size_t>(*size));
  in.read(key.text.data(), static_cast<std::streamsize>(*size));
  if (!in.good() || in.get() != '\n') return std::nullopt;
  return key;
}

bool Consume(std::istream& in, std::string_view expected) {
  return std::all_of(expected.begin(), expected.end(),
                     [&](char c) { return in.get() == static_cast<unsigned char>(c); });
}

absl::Status WriteAndSync(const std::string& file, const std::string& bytes) {
  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return Failed("make", file);
  absl::Status status;
  for (size_t done = 0; status.ok() && done < bytes.size();) {
    const ssize_t some = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (some >= 0) {
      done += static_cast<size_t>(some);
    } else if (errno != EINTR) {
      status = Failed("write", file);
    }
  }
  if (status.ok() && ::fsync(fd) != 0) status = Failed("write", file);
  if (::close(fd) != 0 && status.ok()) status = Failed("write", file);
  return status;
}

}  // namespace

absl::Status WriteHotKeys(const std::vector<HotKey>& keys, std::ostream& out) {
  out << kTitle;
  for (const HotKey& key : keys) {
    if (key.text.size() > kMaxTextBytes) {
      return absl::InvalidArgumentError("WriteHotKeys: a key has a text of more than 1 MiB");
    }
    out << std::to_string(key.uses) << ' ' << std::to_string(key.text.size()) << '\n'
        << key.text << '\n';
  }
  out << kEnd << std::to_string(keys.size()) << '\n';
  out.flush();
  if (!out.good()) return absl::UnavailableError("WriteHotKeys: the stream has failed");
  return absl::OkStatus();
}

absl::Status WriteHotKeys(const std::vector<HotKey>& keys, const std::string& file) {
  std::ostringstream text;
  if (absl::Status status = WriteHotKeys(keys, text); !status.ok()) return status;
  // Beside the file, so that the renaming is one step; of this process, as others may do the same.
  const std::string next = file + ".next" + std::to_string(::getpid());
  absl::Status status = WriteAndSync(next, text.str());
  if (status.ok() && std::rename(next.c_str(), file.c_str()) != 0) status = Failed("rename", next);
  if (!status.ok()) {
    ::unlink(next.c_str());
    return status;
  }
  const size_t slash = file.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : file.substr(0, slash + 1);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    (void)::fsync(fd);  // if it fails, either file may be there after a loss of power
    ::close(fd);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<HotKey>> ReadHotKeys(std::istream& in) {
  if (!Consume(in, kTitle)) return Damaged();
  std::vector<HotKey> keys;
  while (in.peek() != kEnd[0]) {
    std::optional<HotKey> key = ReadHotKey(in);
    if (!key) return Damaged();
    keys.push_back(*std::move(key));
  }
  if (!Consume(in, kEnd) || ReadNumber(in, '\n') != keys.size()) return Damaged();
  return keys;
}

absl::StatusOr<std::vector<HotKey>> ReadHotKeys(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in.is_open()) {
    const std::string text = "ReadHotKeys: can't open " + file + ": " + std::strerror(errno);
    return errno == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
  }
  return ReadHotKeys(in);
}

namespace internal {

void WarmTasks::Push(Task task) {
  // Is destroyed without the lock if it is dropped: that ends the prefetch.
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  tasks_.push_back(std::move(task));
  changed_.notify_all();
}

std::optional<WarmTasks::Task> WarmTasks::Pop(const StopToken& stop_token) {
  const auto wake = [this] {
    const std::lock_guard<std::mutex> lock(mutex_);
    changed_.notify_all();
  };
  // Ends after the lock, which `wake` takes.
  const StopCallback<decltype(wake)> on_stop(stop_token, wake);
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return !tasks_.empty() || ended_ || stop_token.stop_requested(); });
  if (tasks_.empty() || stop_token.stop_requested()) return std::nullopt;
  Task task = std::move(tasks_.front());
  tasks_.pop_front();
  return task;
}

void WarmTasks::End() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void WarmTasks::Close() {
  std::deque<Task> dropped;  // without the lock, as they end the prefetch
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  dropped.swap(tasks_);
}

WarmPace::WarmPace(const WarmOptions& options)
    : options_(options),
      interval_(options.keys_per_second > 0 ? absl::Seconds(1) / options.keys_per_second
                                            : absl::ZeroDuration()),
      next_(Now()) {}

absl::Time WarmPace::Now() const {
  if (options_.clock != nullptr) return options_.clock();
  // Of differences only the steady clock's are sure.
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

void WarmPace::Sleep(absl::Duration time) const {
  if (options_.sleep != nullptr) {
    options_.sleep(time);
    return;
  }
  // In parts, between which a stop is seen.
  const absl::Time end = Now() + time;
  constexpr absl::Duration kPart = absl::Milliseconds(20);
  for (absl::Time now = Now(); now < end && !options_.stop_token.stop_requested(); now = Now()) {
    std::this_thread::sleep_for(absl::ToChronoNanoseconds(std::min(end - now, kPart)));
  }
}

bool WarmPace::Wait() {
  const absl::Time now = Now();
  if (now < next_) Sleep(next_ - now);
  next_ = std::max(now, next_) + interval_;
  return !options_.stop_token.stop_requested();
}

}  // namespace internal
}  // namespace weakcache
