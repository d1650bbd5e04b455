#include "gateway/write_queue.h"

#include <gtest/gtest.h>

namespace runbus::gateway {
namespace {

class FakeItem final : public Item {
 public:
  explicit FakeItem(std::size_t bytes) : bytes_(bytes) {}
  std::size_t bytes() const override { return bytes_; }
  void render(std::string& out) override { out.append(bytes_, 'i'); }
  void delivered() override {}

 private:
  std::size_t bytes_;
};

TEST(WriteQueue, RefusesRepliesPastItsBound) {
  WriteQueue queue(10);
  EXPECT_TRUE(queue.push(std::string(6, 'a')));
  EXPECT_TRUE(queue.push(std::string(4, 'b')));
  EXPECT_FALSE(queue.push(std::string(1, 'c')));
  EXPECT_EQ(queue.reply_bytes(), 10U);
  std::string out;
  EXPECT_EQ(queue.pop(out), nullptr);
  EXPECT_EQ(out, "aaaaaa");
  EXPECT_TRUE(queue.push(std::string(6, 'c')));
}

TEST(WriteQueue, OneReplyAlwaysFits) {
  WriteQueue queue(10);
  EXPECT_TRUE(queue.push(std::string(1000, 'a')));
  EXPECT_FALSE(queue.push(std::string(1, 'b')));
}

TEST(WriteQueue, ItemsDoNotCountAgainstRepliesAndKeepTheirPlace) {
  WriteQueue queue(10);
  queue.push(std::make_unique<FakeItem>(1000));
  EXPECT_TRUE(queue.push(std::string(10, 'r')));
  queue.push(std::make_unique<FakeItem>(2));
  EXPECT_EQ(queue.item_bytes(), 1002U);
  std::string out;
  EXPECT_NE(queue.pop(out), nullptr);
  EXPECT_EQ(out.size(), 1000U);
  EXPECT_EQ(queue.pop(out), nullptr);
  EXPECT_EQ(out, "rrrrrrrrrr");
  EXPECT_NE(queue.pop(out), nullptr);
  EXPECT_EQ(out, "ii");
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.item_bytes(), 0U);
}

}  // namespace
}  // namespace runbus::gateway
