// The bytes of every event type, kept for ever: tests/golden/events/<type>.json (structured CloudEvent) and <type>.bin
// (the binary envelope as hex, 32 bytes on a line). What is written today must be read in all years to come, and must be
// written the same, or stores and topics change under their users.
//
// A new type needs its files: LEAT_WRITE_GOLDEN=1 build/release/golden_bytes writes those that are missing, and never
// touches one that is there. Look at them, and commit them with the .proto. Fields added to a type later are not in its
// old files, which is what keeps old bytes tested; give the new field its test where it is used.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/bytes.h"
#include "events/codec.h"
#include "events/registry.h"
#include "tests/support/random_message.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_support.h"

namespace leat::events {
namespace {

using test::Must;

const std::string kFolder = test::SourceDir() + "/tests/golden/events/";

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string ToHexLines(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 32) {
    core::AppendHex(bytes.substr(i, 32), &out);
    out.push_back('\n');
  }
  return out;
}

std::string FromHexLines(const std::string& text) {
  std::string hex = "0x";
  for (const char c : text) {
    if (c != '\n') hex.push_back(c);
  }
  return Must(core::FromHex(hex));
}

// An event of a type with every attribute and every field of its data set.
Event Sample(const std::string& type, std::string* data) {
  const auto message = test::NewMessage(Registry::Global().Find(type));
  uint64_t next = 0;
  test::FillFully(message.get(), &next);
  *data = message->SerializeAsString();
  EventView view;
  view.type = type;
  view.time_us = 1'438'269'988'123'456;  // 2015-07-30T15:26:28.123456Z
  view.cause = Cause{"chain.blocks", 3, 8191, 2, 5};
  view.id = "0190163d-8694-739b-aea5-966c26f8ad91";
  view.source = "leat/ledger-0";
  view.subject = "stream-1";
  view.streamversion = 42;
  view.partitionkey = "eip155:1";
  view.dataschema = "leat:schema";
  view.correlationid = "correlation";
  view.causationid = "causation";
  view.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  view.extensions = {{"tenant", "ä"}};
  view.data = *data;
  return Event(view);
}

bool Writing() {
  const char* text = std::getenv("LEAT_WRITE_GOLDEN");
  return text != nullptr && std::string_view(text) == "1";
}

TEST_CASE("the golden bytes of every event type") {
  size_t written = 0;
  for (const std::string& type : Registry::Global().Types()) {
    CAPTURE(type);
    const std::string json_path = kFolder + type + ".json";
    const std::string bin_path = kFolder + type + ".bin";
    const bool there = std::filesystem::exists(json_path) && std::filesystem::exists(bin_path);
    if (!there && Writing()) {
      REQUIRE_FALSE(std::filesystem::exists(json_path));
      REQUIRE_FALSE(std::filesystem::exists(bin_path));
      std::string data, bytes;
      const Event sample = Sample(type, &data);
      EncodeEvent(sample.view(), &bytes);
      std::ofstream(json_path) << EventToJson(sample.view(), "topic/0@7~0000beef") << "\n";
      std::ofstream(bin_path) << ToHexLines(bytes);
      std::printf("written: %s, %s\n", json_path.c_str(), bin_path.c_str());
      ++written;
    }
    if (!there && !Writing()) {
      FAIL_CHECK("no golden file for ", type, ": see the head of event_bytes_test.cc");
      continue;
    }
    // Read what was kept, and write it again.
    const std::string bytes = FromHexLines(ReadFile(bin_path));
    REQUIRE_FALSE(bytes.empty());
    const EventView view = Must(DecodeEvent(bytes));
    CHECK(view.type == type);
    CHECK(view.cause.has_value());
    CHECK_FALSE(view.extensions.empty());
    std::string again;
    EncodeEvent(view, &again);
    CHECK_MESSAGE(again == bytes, "the envelope is written differently now");
    // The data: parsed and serialized, and by way of JSON.
    const auto message = test::NewMessage(Registry::Global().Find(type));
    REQUIRE(message->ParseFromString(std::string(view.data)));
    CHECK_MESSAGE(message->SerializeAsString() == view.data, "the data is written differently now");
    CHECK_MESSAGE(message->GetReflection()->GetUnknownFields(*message).empty(),
                  "a field of the kept bytes is gone from the .proto");
    const std::string json = ReadFile(json_path);
    CHECK_MESSAGE(EventToJson(view, "topic/0@7~0000beef") + "\n" == json, "the JSON differs now");
    const auto events = Must(EventsFromJson(json));
    REQUIRE(events.size() == 1);
    CHECK_MESSAGE(events[0].view().data == view.data, "the JSON is read differently now");
    CHECK(events[0].view().id == view.id);
    CHECK(events[0].view().time_us == view.time_us);
    CHECK(Must(DataFromJson(type, Must(DataToJson(type, view.data)))) == view.data);
  }
  if (written > 0) FAIL_CHECK("golden files were written: look at them, commit them, and run again");
}

TEST_CASE("a golden file without a type is a type that is gone") {
  // Types are kept for ever: stored events must stay readable.
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    const std::string type = entry.path().stem().string();
    CAPTURE(type);
    CHECK(Registry::Global().Find(type) != nullptr);
    CHECK((entry.path().extension() == ".json" || entry.path().extension() == ".bin"));
  }
}

}  // namespace
}  // namespace leat::events
