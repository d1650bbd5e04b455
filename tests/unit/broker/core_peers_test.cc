#include "proto/wire/batch.h"
#include "tests/unit/broker/core_fixture.h"

namespace runbus::broker {
namespace {

using Ids = std::vector<std::string>;

class CorePeers : public CoreTest {
 protected:
  std::string last_goodbye(const std::string& id) const {
    v1::GoodbyeBody body;
    const auto all = sent_to(id, v1::GOODBYE);
    return all.empty() || !body.ParseFromString(all.back().body) ? "" : body.reason();
  }
};

TEST_F(CorePeers, AnUnknownPeerIsToldSoOnceASecond) {
  for (int i = 0; i < 5; ++i) {
    say("@x", header(v1::HEARTBEAT));
  }
  EXPECT_EQ(count_to("x", v1::GOODBYE), 1U);
  EXPECT_EQ(last_goodbye("x"), "unknown");
  EXPECT_EQ(dropped("unknown_peer"), 5U);
  now.steady_ms += 1100;
  say("@x", header(v1::HEARTBEAT));
  EXPECT_EQ(count_to("x", v1::GOODBYE), 2U);
  say("@y", header(v1::GOODBYE));
  EXPECT_EQ(count_to("y", v1::GOODBYE), 0U) << "a goodbye needs no answer";
}

TEST_F(CorePeers, AKindOfTheWrongRoleIsDropped) {
  attach_gateway("g1");
  attach_worker("w1");
  v1::Header call_by_worker = call_header("c1");
  call_by_worker.set_origin("w1");
  say("@w1", call_by_worker);
  say("@g1", header(v1::RESULT, "c1"));
  say("@g1", header(v1::DRAIN));
  say("@g1", header(v1::SERVICES));
  EXPECT_EQ(dropped("role"), 4U);
  EXPECT_TRUE(calls_of("w1").empty());
}

TEST_F(CorePeers, OnlyTheCallersAndTheHoldersMessagesCount) {
  attach_gateway("g1");
  attach_gateway("g2");
  attach_worker("w1");
  attach_worker("w2", "n2");
  call("c1");
  const std::string holder = calls_of("w1").empty() ? "w2" : "w1";
  const std::string other = holder == "w1" ? "w2" : "w1";
  reply(other, v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 0U);
  say("@g2", header(v1::CANCEL, "c1"));
  EXPECT_EQ(count_to(holder, v1::CANCEL), 0U);
  say("@g2", header(v1::CREDIT, "c1"));
  EXPECT_EQ(dropped("not_its_call"), 3U);
}

// Before anything is sent to it: also over its next connection, be it of an older version by then.
TEST_F(CorePeers, APeersBatchesAreAsItSaysLast) {
  v1::Ready ready = worker_ready("w1");
  ready.set_max_batch(20);
  say("@w1", header(v1::READY), ready.SerializeAsString());
  EXPECT_EQ(out.batches, (std::map<std::string, std::uint32_t>{{"@w1", 20}}));
  ready.clear_max_batch();
  say("@w1 again", header(v1::READY), ready.SerializeAsString());
  EXPECT_EQ(out.batches.at("@w1 again"), 0U);
  v1::Welcome welcome;
  ASSERT_TRUE(welcome.ParseFromString(sent_to("w1", v1::READY).at(0).body));
  EXPECT_EQ(welcome.max_batch(), wire::kMaxBatchMessages);
}

TEST_F(CorePeers, ACallUnderAForeignOriginIsRefused) {
  attach_gateway("g1");
  attach_gateway("g2");
  attach_worker("w1");
  v1::Header forged = call_header("c1");
  forged.set_origin("g2");
  say("@g1", forged);
  EXPECT_TRUE(calls_of("w1").empty());
  EXPECT_EQ(error_of("c1").code(), -32600);
}

TEST_F(CorePeers, AKeyForARoleCannotTakeAnother) {
  v1::Ready ready;
  ready.set_role(v1::GATEWAY);
  ready.set_peer_id("g1");
  say("@g1", header(v1::READY), ready.SerializeAsString(), "worker:pi");
  EXPECT_EQ(core->stats(now).gateways(), 0U);
  EXPECT_EQ(last_goodbye("g1"), "the key is for another role");
  say("@g1", header(v1::READY), ready.SerializeAsString(), "gateway:edge");
  EXPECT_EQ(core->stats(now).gateways(), 1U);
}

TEST_F(CorePeers, AKeyBoundToANodeCannotClaimAnother) {
  const std::string ready = worker_ready("w1", "n2").SerializeAsString();
  say("@w1", header(v1::READY), ready, "worker:pi", "n1");
  EXPECT_EQ(core->stats(now).workers(), 0U);
  say("@w1", header(v1::READY), ready, "worker:pi", "n2");
  EXPECT_EQ(core->stats(now).workers(), 1U);
}

TEST_F(CorePeers, AnUnboundRemoteKeyCannotSitDownOnSomebodyElsesNode) {
  attach_worker("w1", "n1");
  say("@w2", header(v1::READY), worker_ready("w2", "n1").SerializeAsString(), "worker:pi");
  EXPECT_EQ(core->stats(now).workers(), 1U);
  EXPECT_EQ(last_goodbye("w2"), "the node is another peer's");
  say("@w2", header(v1::READY), worker_ready("w2", "n2").SerializeAsString(), "worker:pi");
  EXPECT_EQ(core->stats(now).workers(), 2U);
}

TEST_F(CorePeers, APeerIdCannotBeTakenOverWithAnotherKey) {
  attach_worker("w1", "n1");
  say("@x", header(v1::READY), worker_ready("w1", "n1").SerializeAsString(), "worker:pi");
  EXPECT_EQ(last_goodbye("x"), "peer_id is another peer's");
  attach_gateway("g1");
  call("c1");
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
}

TEST_F(CorePeers, ARoutingIdThatAnotherKeyTakesOverIsAStranger) {
  say("@w1", header(v1::READY), worker_ready("w1").SerializeAsString(), "worker:pi");
  say("@w1", header(v1::DRAIN), {}, "worker:evil");
  EXPECT_EQ(dropped("unknown_peer"), 1U);
  const auto stats = core->stats(now);
  EXPECT_EQ(stats.workers(), 1U);
}

TEST_F(CorePeers, RefusesIntroductionsThatAreNotSound) {
  std::vector<v1::Ready> bad;
  bad.push_back(worker_ready("w1"));
  bad.back().set_peer_id("../etc");
  bad.push_back(worker_ready("w1"));
  bad.back().set_node("");
  bad.push_back(worker_ready("w1"));
  bad.back().mutable_services(0)->set_capacity(0);
  bad.push_back(worker_ready("w1"));
  bad.back().mutable_services(0)->set_methods(0, "bus.stats");
  bad.push_back(worker_ready("w1"));
  bad.back().mutable_services(0)->set_descriptor_set(std::string((1U << 20U) + 1, 'x'));
  bad.push_back(worker_ready("w1"));
  *bad.back().add_services() = bad.back().services(0);
  bad.push_back(worker_ready("w1"));
  bad.back().set_role(v1::ROLE_UNSPECIFIED);
  for (const v1::Ready& ready : bad) {
    say("@w1", header(v1::READY), ready.SerializeAsString());
    EXPECT_EQ(core->stats(now).workers(), 0U) << ready.ShortDebugString().substr(0, 200);
  }
  EXPECT_EQ(dropped("ready"), bad.size());
  EXPECT_EQ(count_to("w1", v1::GOODBYE), bad.size());
}

TEST_F(CorePeers, JunkIsCountedAndChangesNothing) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  const std::size_t before = out.sent.size();
  zmq::message_t body;
  for (const std::string& bytes :
       {std::string("\xff\xff\xff"), std::string(70'000, 'a'), std::string()}) {
    zmq::message_t frame(bytes.data(), bytes.size());
    core->on_message({"@w1", {}, {}}, frame, body, now);
  }
  v1::Header odd = header(v1::RESULT, "no spaces");
  say("@w1", odd);
  core->on_junk("frames", "@w1");
  EXPECT_EQ(dropped("header_syntax"), 1U);
  EXPECT_EQ(dropped("header_size"), 1U);
  EXPECT_EQ(dropped("header_kind"), 1U);
  EXPECT_EQ(dropped("header_id"), 1U);
  EXPECT_EQ(dropped("frames"), 1U);
  EXPECT_EQ(out.sent.size(), before);
  reply("w1", v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
}

TEST_F(CorePeers, ABodyOverTheLimitIsDropped) {
  CoreOptions options;
  options.max_body_bytes = 100;
  start(options);
  attach_worker("w1");
  attach_gateway("g1");
  say("@g1", call_header("c1"), std::string(101, 'x'));
  EXPECT_EQ(dropped("body_size"), 1U);
}

TEST_F(CorePeers, RefusesPeersBeyondItsRoom) {
  CoreOptions options;
  options.max_peers = 2;
  start(options);
  attach_gateway("g1");
  attach_gateway("g2");
  attach_gateway("g3");
  EXPECT_EQ(core->stats(now).gateways(), 2U);
  EXPECT_FALSE(last_goodbye("g3").empty());
}

TEST_F(CorePeers, TheOlderOfTwoServicesKeepsAMethodThatBothOffer) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 8);
  v1::Ready thief = worker_ready("w2", "n2", 8, "evil.Echo");
  thief.mutable_services(0)->set_methods(0, "echo.say");
  say("@w2", header(v1::READY), thief.SerializeAsString());
  for (int i = 0; i < 4; ++i) {
    call("c" + std::to_string(i));
  }
  EXPECT_EQ(calls_of("w1").size(), 4U);
}

TEST_F(CorePeers, SaysWhoIsAttachedAndWhatIsOffered) {
  attach_gateway("g1");
  say("@w1", header(v1::READY), worker_ready("w1", "n1", 3).SerializeAsString(), "worker:pi", "n1");
  attach_worker("w2", "n2", 5);
  call("c1");
  const auto workers = ask<v1::WorkersResponse>("bus.workers", v1::WorkersRequest());
  ASSERT_EQ(workers.workers_size(), 2);
  EXPECT_EQ(workers.workers(0).identity(), "pi");
  EXPECT_EQ(workers.workers(1).identity(), "local");
  EXPECT_EQ(workers.workers(0).calls() + workers.workers(1).calls(), 1U);
  const auto services = ask<v1::ServicesResponse>("bus.services", v1::ServicesRequest());
  ASSERT_EQ(services.services_size(), 1);
  EXPECT_EQ(services.services(0).workers(), 2U);
  EXPECT_EQ(services.services(0).capacity(), 8U);
  const auto stats = ask<v1::StatsResponse>("bus.stats", v1::StatsRequest());
  EXPECT_EQ(stats.epoch(), "epoch1");
  EXPECT_EQ(stats.calls_in_flight(), 1U);
  call("c2", {}, "bus.nothing");
  EXPECT_EQ(error_of("c2").code(), -32601);
}

}  // namespace
}  // namespace runbus::broker
