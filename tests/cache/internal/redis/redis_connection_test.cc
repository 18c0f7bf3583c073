// SPDX-License-Identifier: Apache-2.0
// A Connection to the other end of a socket pair.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <hiredis/hiredis.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "weakcache/cache/internal/redis/connection.h"

namespace weakcache::internal {
namespace {

class RedisConnectionTest : public ::testing::Test {
 protected:
  RedisConnectionTest() {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets_.data()) != 0) return;
    fcntl(sockets_[0], F_SETFL, O_NONBLOCK);
    connection_ = std::make_unique<Connection>(redisConnectFd(sockets_[0]));
  }
  ~RedisConnectionTest() override { close(sockets_[1]); }

  void Answer(std::string_view text) {
    ASSERT_EQ(send(sockets_[1], text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  void Ask() {
    const absl::StatusOr<ReplyPointer> reply =
        connection_->Call({"PING"}, After(absl::Seconds(10)));
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(TextOf(**reply), "PONG");
  }

  std::array<int, 2> sockets_ = {-1, -1};
  std::unique_ptr<Connection> connection_;  // has the first socket
};

TEST_F(RedisConnectionTest, IsQuietAfterEachReply) {
  for (int i = 0; i < 2; ++i) {
    Answer("+PONG\r\n");
    Ask();
    EXPECT_TRUE(connection_->IsInStep());
    EXPECT_TRUE(connection_->IsQuiet());
  }
  Answer("+PONG\r\n");
  EXPECT_FALSE(connection_->IsQuiet());
}

TEST_F(RedisConnectionTest, ASurplusReplyThatHasBeenReadIsNotQuiet) {
  Answer("+PONG\r\n+PONG\r\n");
  Ask();
  EXPECT_FALSE(connection_->IsInStep());
  EXPECT_FALSE(connection_->IsQuiet());
}

TEST_F(RedisConnectionTest, PartOfASurplusReplyIsNotQuiet) {
  Answer("+PONG\r\n$");
  Ask();
  EXPECT_FALSE(connection_->IsQuiet());
}

TEST_F(RedisConnectionTest, AnUnansweredCommandIsNotInStep) {
  connection_->Append({"PING"});
  Answer("+PONG\r\n");
  Ask();
  EXPECT_FALSE(connection_->IsQuiet());
}

TEST_F(RedisConnectionTest, ADistrustedOneIsNotInStep) {
  connection_->Distrust();
  EXPECT_FALSE(connection_->IsQuiet());
}

}  // namespace
}  // namespace weakcache::internal
