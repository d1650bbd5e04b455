#include "gateway/auth.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>

#include "gateway/target.h"

namespace runbus::gateway {
namespace {

Credentials with(std::string_view authorization, std::string_view cookie = {},
                 std::string_view query = {}) {
  Credentials credentials;
  credentials.authorization = authorization;
  credentials.cookie = cookie;
  credentials.query = query;
  return credentials;
}

Credentials from(std::string_view origin, std::string_view host) {
  Credentials credentials;
  credentials.origin = origin;
  credentials.host = host;
  return credentials;
}

TEST(Auth, TakesTheTokenFromAnyOfItsPlaces) {
  const Auth auth("secret-token", {});
  EXPECT_TRUE(auth.authenticate(with("Bearer secret-token")));
  EXPECT_TRUE(auth.authenticate(with("bearer  secret-token")));
  EXPECT_TRUE(auth.authenticate(with({}, {}, "a=b&token=secret%2Dtoken")));
  EXPECT_TRUE(auth.authenticate(with({}, "x=y; runbus_token=secret-token")));
}

TEST(Auth, RefusesWrongAndMissingTokens) {
  const Auth auth("secret-token", {});
  EXPECT_FALSE(auth.authenticate(with({})));
  EXPECT_FALSE(auth.authenticate(with("Bearer secret-tokem")));
  EXPECT_FALSE(auth.authenticate(with("Bearer ")));
  EXPECT_FALSE(auth.authenticate(with("Basic secret-token")));
  EXPECT_FALSE(auth.authenticate(with({}, "not_runbus_token=secret-token")));
  EXPECT_FALSE(auth.authenticate(with({}, {}, "token=")));
  EXPECT_FALSE(
      auth.authenticate(with("Bearer wrong", {}, "token=secret-token")));  // the first one decides
}

TEST(Auth, WithoutATokenEveryoneIsIn) { EXPECT_TRUE(Auth({}, {}).authenticate(with({}))); }

TEST(Auth, OriginDecisions) {
  const Auth auth("secret-token", {"https://ide.example", "http://localhost:5173/"});
  EXPECT_TRUE(auth.origin_allowed(from("", "gateway:8080")));
  EXPECT_TRUE(auth.origin_allowed(from("http://gateway:8080", "gateway:8080")));
  EXPECT_TRUE(auth.origin_allowed(from("https://gateway", "gateway:443")));
  EXPECT_TRUE(auth.origin_allowed(from("http://[::1]", "[::1]:80")));
  EXPECT_TRUE(auth.origin_allowed(from("HTTPS://IDE.example", "gateway")));
  EXPECT_TRUE(auth.origin_allowed(from("http://localhost:5173", "gateway")));
  EXPECT_FALSE(auth.origin_allowed(from("null", "gateway")));
  EXPECT_FALSE(auth.origin_allowed(from("null", "null")));
  EXPECT_FALSE(auth.origin_allowed(from("http://evil.example", "gateway:8080")));
  EXPECT_FALSE(auth.origin_allowed(from("http://gateway:8081", "gateway:8080")));
  EXPECT_FALSE(auth.origin_allowed(from("http://gateway:8080.evil.example", "gateway:8080")));
  EXPECT_FALSE(auth.origin_allowed(from("http://", "")));
}

TEST(Auth, WithoutATokenANameThatMayPointAnywhereIsNotTheSameOrigin) {
  const Auth auth({}, {});
  EXPECT_FALSE(auth.origin_allowed(from("http://evil.example:8080", "evil.example:8080")));
  EXPECT_TRUE(auth.origin_allowed(from("http://127.0.0.1:8080", "127.0.0.1:8080")));
  EXPECT_TRUE(auth.origin_allowed(from("http://localhost:8080", "localhost:8080")));
  EXPECT_TRUE(auth.origin_allowed(from("http://[::1]:8080", "[::1]:8080")));
}

TEST(Auth, LoadsTheTokenFromAFileOrTheEnvironment) {
  std::string path = "/tmp/runbus-token-XXXXXX";
  const int fd = ::mkstemp(path.data());
  ASSERT_GE(fd, 0);
  ::close(fd);
  std::ofstream(path) << "from-the-file \r\nsecond line\n";
  EXPECT_EQ(*load_token(path), "from-the-file");
  std::ofstream(path) << "short\n";
  EXPECT_FALSE(load_token(path));
  ::unlink(path.c_str());
  EXPECT_FALSE(load_token(path));
  ::setenv("RUNBUS_TOKEN", "from-the-environment", 1);
  EXPECT_EQ(*load_token({}), "from-the-environment");
  ::unsetenv("RUNBUS_TOKEN");
  EXPECT_FALSE(load_token({}));
}

TEST(Target, SplitsAndDecodes) {
  EXPECT_EQ(split_target("/ws?token=x").path, "/ws");
  EXPECT_EQ(split_target("/ws?token=x#f").query, "token=x");
  EXPECT_EQ(split_target("/ws").query, "");
  EXPECT_EQ(percent_decode("a%20b+c%zz%4"), "a b c%zz%4");
  EXPECT_EQ(query_parameter("a=1&b=2&b=3", "b"), "2");
  EXPECT_EQ(query_parameter("a=1", "b"), std::nullopt);
  EXPECT_EQ(query_parameter("b", "b"), "");
  EXPECT_EQ(cookie("a=1;b=2", "b"), "2");
}

}  // namespace
}  // namespace runbus::gateway
