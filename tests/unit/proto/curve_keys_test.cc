#include "proto/wire/curve_keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/unit/proto/bus_fixture.h"

namespace runbus::wire {
namespace {

class CurveKeysTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text, mode_t mode = 0600) const {
    std::ofstream(directory.file(name)) << text;
    ASSERT_EQ(::chmod(directory.file(name).c_str(), mode), 0);
  }
  TemporaryDirectory directory;
  KeyPair pair = make_key_pair();
};

TEST_F(CurveKeysTest, WritesAndReadsASecretForItsOwnerAlone) {
  ASSERT_TRUE(write_secret_file(directory.file("s"), pair).has_value());
  struct stat info {};
  ASSERT_EQ(::stat(directory.file("s").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  const auto read = read_secret_file(directory.file("s"));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->public_key, pair.public_key);
  EXPECT_EQ(read->secret_key, pair.secret_key);
  EXPECT_EQ(write_secret_file(directory.file("s"), pair).error().code, ErrorCode::kConflict);
  ASSERT_EQ(::chmod(directory.file("s").c_str(), 0640), 0);
  EXPECT_EQ(read_secret_file(directory.file("s")).error().code, ErrorCode::kValidation);
  EXPECT_EQ(read_secret_file(directory.file("none")).error().code, ErrorCode::kNotFound);
}

TEST_F(CurveKeysTest, RefusesKeysThatDoNotBelongTogether) {
  ASSERT_TRUE(write_secret_file(directory.file("s"), {make_key_pair().public_key, pair.secret_key})
                  .has_value());
  EXPECT_FALSE(read_secret_file(directory.file("s")).has_value());
}

TEST_F(CurveKeysTest, WritesAndReadsAPublicFile) {
  ASSERT_TRUE(
      write_public_file(directory.file("pi.pub"), {"worker", pair.public_key, "n1"}).has_value());
  const auto key = read_public_file(directory.file("pi.pub"));
  ASSERT_TRUE(key.has_value());
  EXPECT_EQ(key->role, "worker");
  EXPECT_EQ(key->public_key, pair.public_key);
  EXPECT_EQ(key->node, "n1");
  EXPECT_FALSE(
      write_public_file(directory.file("x.pub"), {"king", pair.public_key, ""}).has_value());
}

TEST_F(CurveKeysTest, ReadsPublicFilesStrictly) {
  const std::string key = "public-key = \"" + pair.public_key + "\"\n";
  EXPECT_TRUE(parse_public_file("# a comment\n\nrole = \"worker\" # behind\n" + key).has_value());
  for (const std::string& bad :
       {std::string(), std::string("role = \"worker\"\n"), "role = worker\n" + key,
        "role = \"worker\"\n" + key + key, "role = \"worker\"\nnode = \"a/b\"\n" + key,
        "role = \"worker\"\nextra = \"1\"\n" + key, "role = \"worker\" junk\n" + key,
        std::string("role = \"worker\"\npublic-key = \"short\"\n"),
        "[section]\nrole = \"worker\"\n" + key, std::string(5000, '#')}) {
    EXPECT_FALSE(parse_public_file(bad).has_value()) << bad;
  }
}
}  // namespace
}  // namespace runbus::wire
