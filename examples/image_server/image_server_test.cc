// SPDX-License-Identifier: Apache-2.0
// Asks the server by HTTP, as its users do.
#include "examples/image_server/image_server.h"

#include <gtest/gtest.h>
#include <httplib.h>
#include <stb/stb_image_write.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <latch>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace image_server {
namespace {

// Writes a picture of 80 by 60 pixels, each its own color; returns its path.
std::string MakeImage(const std::string& name, int channels) {
  constexpr int kWidth = 80;
  constexpr int kHeight = 60;
  std::vector<unsigned char> pixels(static_cast<size_t>(kWidth * kHeight * channels));
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<unsigned char>(i * i / 7);
  const std::string path = ::testing::TempDir() + "/" + name;
  EXPECT_NE(stbi_write_png(path.c_str(), kWidth, kHeight, channels, pixels.data(), 0), 0);
  return path;
}

std::string WriteFile(const std::string& name, const std::string& contents) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << contents;
  return path;
}

// A server on a free port, that answers until the end of the test.
class RunningServer {
 public:
  explicit RunningServer(ServerOptions options = {}) {
    options.paths = {MakeImage("gray.png", 1), MakeImage("moon.png", 3),
                     MakeImage("a <clear> one.png", 4), WriteFile("broken.png", "\x89PNG")};
    options.patience = std::chrono::minutes(1);
    images_ = std::make_unique<ImageServer>(options);
    images_->Register(server_);
    port_ = server_.bind_to_any_port("127.0.0.1");
    thread_ = std::jthread([this] { server_.listen_after_bind(); });
  }
  ~RunningServer() {
    // A stop before the start would be lost.
    while (!server_.is_running()) std::this_thread::yield();
    server_.stop();
  }

  const ImageServer& images() const { return *images_; }
  std::string url(const std::string& path) const {
    return "http://127.0.0.1:" + std::to_string(port_) + path;
  }
  httplib::Result Get(const std::string& path) const {
    httplib::Client client("127.0.0.1", port_);
    client.set_read_timeout(std::chrono::minutes(1));
    return client.Get(path);
  }
  std::string Body(const std::string& path) const {
    const httplib::Result result = Get(path);
    return result && result->status == 200 ? result->body : "";
  }

 private:
  std::unique_ptr<ImageServer> images_;
  httplib::Server server_;
  int port_ = 0;
  std::jthread thread_;
};

bool IsJpeg(const std::string& body) { return body.starts_with("\xff\xd8\xff"); }

bool IsInstalled(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null").c_str()) == 0;
}

TEST(ImageServerTest, ServesAnImageInEachWidth) {
  const RunningServer server;
  const httplib::Result small = server.Get("/images/moon.png?width=32");
  ASSERT_TRUE(small);
  EXPECT_EQ(small->status, 200);
  EXPECT_EQ(small->get_header_value("Content-Type"), "image/jpeg");
  EXPECT_TRUE(IsJpeg(small->body));
  const std::string large = server.Body("/images/moon.png?width=64");
  EXPECT_TRUE(IsJpeg(large));
  EXPECT_GT(large.size(), small->body.size());
  // Both were made of one decoded image.
  EXPECT_EQ(server.images().ledger().decodes(), 1);
  EXPECT_EQ(server.Body("/images/moon.png?width=32"), small->body);
}

TEST(ImageServerTest, SaysWhatIsWrongWithARequest) {
  const RunningServer server;
  EXPECT_EQ(server.Get("/images/none.png")->status, 404);
  const httplib::Result broken = server.Get("/images/broken.png");
  EXPECT_EQ(broken->status, 500);
  EXPECT_NE(broken->body, "");
  for (const char* width : {"0", "-1", "4097", "many", "", "99999999999"}) {
    const httplib::Result result = server.Get(std::string("/images/moon.png?width=") + width);
    EXPECT_EQ(result->status, 400) << width;
    EXPECT_EQ(result->body, "width takes a number from 1 to 4096\n");
  }
  EXPECT_EQ(server.Get("/images/..%2fBUILD")->status, 404);
  EXPECT_EQ(server.images().ledger().decodes(), 1);  // of the broken one
}

TEST(ImageServerTest, NeverMakesAnImageWider) {
  const RunningServer server;
  EXPECT_EQ(server.Body("/images/moon.png?width=4096"), server.Body("/images/moon.png?width=80"));
}

TEST(ImageServerTest, ServesEachKindOfPixelsUnderAnyName) {
  const RunningServer server;
  EXPECT_TRUE(IsJpeg(server.Body("/images/gray.png")));
  EXPECT_TRUE(IsJpeg(server.Body("/images/a%20%3Cclear%3E%20one.png")));
}

TEST(ImageServerTest, UnderLoadEachImageIsDecodedOnce) {
  const RunningServer server;
  constexpr int kClients = 8;
  std::latch together(kClients);
  std::atomic<int> failures = 0;
  {
    std::vector<std::jthread> clients;
    for (int client = 0; client < kClients; ++client) {
      clients.emplace_back([&] {
        together.arrive_and_wait();
        for (const char* name : {"gray.png", "moon.png"}) {
          for (const char* width : {"16", "24"}) {
            const std::string path = std::string("/images/") + name + "?width=" + width;
            if (!IsJpeg(server.Body(path))) ++failures;
          }
        }
      });
    }
  }
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(server.images().ledger().decodes(), 2);
  EXPECT_EQ(server.images().ledger().most_copies(), 1);
}

TEST(ImageServerTest, AnswersWithoutRoomInItsCaches) {
  const RunningServer server({.paths = {}, .decoded_bytes = 1, .scaled_bytes = 1});
  EXPECT_TRUE(IsJpeg(server.Body("/images/moon.png?width=32")));
  EXPECT_EQ(server.images().ledger().live_bytes(), 0);
}

TEST(ImageServerTest, ItsFirstPageHasAllImages) {
  const RunningServer server;
  const std::string page = server.Body("/");
  std::set<std::string> names;
  for (size_t at = 0; (at = page.find("<img src=\"/images/", at)) != std::string::npos; ++at) {
    names.insert(page.substr(at, page.find('?', at) - at));
  }
  EXPECT_EQ(names.size(), 4u);
  EXPECT_EQ(page.find("<clear>"), std::string::npos);
}

TEST(ImageServerTest, MetricsCountBothCaches) {
  const RunningServer server;
  EXPECT_NE(server.Body("/images/moon.png?width=32"), "");
  EXPECT_NE(server.Body("/images/moon.png?width=32"), "");
  const std::string metrics = server.Body("/metrics");
  for (const char* cache : {"decoded", "scaled"}) {
    EXPECT_NE(metrics.find(std::string("cache=\"") + cache + "\""), std::string::npos) << metrics;
  }
  EXPECT_EQ(server.Get("/metrics")->get_header_value("Content-Type"),
            "text/plain; version=0.0.4; charset=utf-8");
}

TEST(ImageServerTest, PrometheusAcceptsTheMetrics) {
  if (!IsInstalled("promtool")) GTEST_SKIP() << "promtool is not installed (package prometheus)";
  const RunningServer server;
  EXPECT_NE(server.Body("/images/moon.png?width=32"), "");
  const std::string file = ::testing::TempDir() + "/metrics";
  std::ofstream(file) << server.Body("/metrics");
  EXPECT_EQ(std::system(("promtool check metrics <'" + file + "'").c_str()), 0);
}

TEST(ImageServerTest, StatusPageHasBothCachesAndTheirKeys) {
  const RunningServer server;
  EXPECT_NE(server.Body("/images/moon.png?width=32"), "");
  const std::string page = server.Body("/cachez");
  for (const char* text : {"decoded images", "scaled images", "moon.png, 32 wide"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text << '\n' << page;
  }
}

TEST(ImageServerTest, ABrowserShowsTheStatusPage) {
  if (!IsInstalled("chromium")) GTEST_SKIP() << "chromium is not installed";
  const RunningServer server;
  EXPECT_NE(server.Body("/images/moon.png?width=32"), "");
  const std::string file = ::testing::TempDir() + "/page";
  const std::string command = "chromium --headless --no-sandbox --disable-gpu --user-data-dir='" +
                              ::testing::TempDir() + "/browser' --dump-dom '" +
                              server.url("/cachez") + "' >'" + file + "' 2>/dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream shown(file);
  const std::string page(std::istreambuf_iterator<char>(shown), {});
  EXPECT_NE(page.find("moon.png, 32 wide"), std::string::npos) << page;
}

}  // namespace
}  // namespace image_server
