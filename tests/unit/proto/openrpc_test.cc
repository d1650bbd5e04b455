#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "proto/wire/catalog.h"
#include "proto/wire/transcoder.h"
#include "runbus/v1/execution.pb.h"
#include "tests/unit/proto/kinds.pb.h"

namespace runbus::wire {
namespace {

using google::protobuf::DescriptorPool;
using rapidjson::Value;

std::string document_text(const std::vector<const char*>& services) {
  test::Kinds::descriptor();
  v1::CodeRequest::descriptor();
  std::vector<v1::ServiceOffer> offers;
  for (const char* name : services) {
    offers.push_back(make_offer(*DescriptorPool::generated_pool()->FindServiceByName(name), 1));
  }
  return Catalog::build(offers, nullptr)->openrpc();
}

rapidjson::Document document_of(const std::vector<const char*>& services) {
  rapidjson::Document document;
  const std::string text = document_text(services);
  const Result<void> parsed = parse_json(text, {}, document);
  EXPECT_TRUE(parsed) << parsed.error().detail << "\n" << text;
  return document;
}

const Value& by_name(const Value& list, std::string_view name) {
  for (const Value& one : list.GetArray()) {
    if (name == one["name"].GetString()) {
      return one;
    }
  }
  static const Value none;
  ADD_FAILURE() << "no " << name;
  return none;
}

void collect_references(const Value& at, std::set<std::string>& references) {
  if (at.IsArray()) {
    for (const Value& one : at.GetArray()) {
      collect_references(one, references);
    }
  } else if (at.IsObject()) {
    for (const auto& member : at.GetObject()) {
      if (std::string_view(member.name.GetString()) == "$ref" && member.value.IsString()) {
        references.insert(member.value.GetString());
      }
      collect_references(member.value, references);
    }
  }
}

TEST(OpenRpc, DescribesMethodsByNameWithComments) {
  const auto document = document_of({"runbus.test.TestService", "runbus.v1.ExecutionService"});
  EXPECT_STREQ(document["openrpc"].GetString(), "1.2.6");
  EXPECT_STREQ(document["info"]["version"].GetString(), RUNBUS_VERSION);
  const Value& code = by_name(document["methods"], "execute.code");
  EXPECT_STREQ(code["summary"].GetString(),
               "Runs a program to its end and returns what it printed.");
  EXPECT_STREQ(code["paramStructure"].GetString(), "by-name");
  const Value& language = by_name(code["params"], "language");
  EXPECT_STREQ(language["description"].GetString(), "Name or alias; empty: \"python\".");
  EXPECT_STREQ(language["schema"]["type"].GetString(), "string");
  EXPECT_FALSE(language["required"].GetBool());
  EXPECT_STREQ(by_name(code["params"], "config")["schema"]["$ref"].GetString(),
               "#/components/schemas/runbus.v1.Config");
  EXPECT_STREQ(code["result"]["schema"]["$ref"].GetString(),
               "#/components/schemas/runbus.v1.CodeResult");
  EXPECT_FALSE(code.HasMember("x-streaming"));
}

TEST(OpenRpc, DescribesStreamsByTheirNotificationsAndResult) {
  const auto document = document_of({"runbus.v1.ExecutionService"});
  const Value& method = by_name(document["methods"], "execute.code_streaming");
  EXPECT_TRUE(method["x-streaming"].GetBool());
  EXPECT_STREQ(method["result"]["schema"]["$ref"].GetString(),
               "#/components/schemas/runbus.v1.StreamResult");
  EXPECT_STREQ(by_name(method["x-notifications"], "execute.output")["params"]["$ref"].GetString(),
               "#/components/schemas/runbus.v1.Output");
}

TEST(OpenRpc, LeavesInternalMethodsOut) {
  const std::string text = document_text({"runbus.test.TestService"});
  EXPECT_NE(text.find("test.echo"), std::string::npos);
  EXPECT_EQ(text.find("test.hidden"), std::string::npos);
}

TEST(OpenRpc, EveryReferenceLeadsSomewhereAlsoOfRecursiveTypes) {
  const auto document = document_of({"runbus.test.TestService", "runbus.v1.ExecutionService"});
  std::set<std::string> references;
  collect_references(document, references);
  EXPECT_TRUE(references.contains("#/components/schemas/runbus.test.Kinds"));
  const std::string prefix = "#/components/schemas/";
  for (const std::string& reference : references) {
    ASSERT_EQ(reference.substr(0, prefix.size()), prefix);
    EXPECT_TRUE(document["components"]["schemas"].HasMember(reference.substr(prefix.size())))
        << reference;
  }
}

TEST(OpenRpc, WritesSchemasAsTheTranscoderReads) {
  const auto document = document_of({"runbus.test.TestService"});
  const Value& fields = document["components"]["schemas"]["runbus.test.Kinds"]["properties"];
  EXPECT_STREQ(fields["an_int32"]["type"].GetString(), "integer");
  EXPECT_EQ(fields["an_int64"]["type"].Size(), 2U);
  EXPECT_STREQ(fields["maybe_bool"]["type"][1].GetString(), "null");
  EXPECT_STREQ(fields["a_bytes"]["contentEncoding"].GetString(), "base64");
  EXPECT_STREQ(fields["a_color"]["enum"][2].GetString(), "GREEN");
  EXPECT_STREQ(fields["strings"]["items"]["type"].GetString(), "string");
  EXPECT_STREQ(fields["by_uint32"]["additionalProperties"]["type"].GetString(), "number");
  EXPECT_STREQ(fields["text"]["x-oneof"].GetString(), "choice");
  EXPECT_STREQ(fields["timestamp"]["format"].GetString(), "date-time");
  EXPECT_STREQ(fields["object"]["type"].GetString(), "object");
  EXPECT_FALSE(fields["value"].HasMember("type"));
  EXPECT_STREQ(fields["child"]["$ref"].GetString(), "#/components/schemas/runbus.test.Kinds");
}

}  // namespace
}  // namespace runbus::wire
