// The hand-written codec of the envelope against the one that Protobuf generates.
#include <doctest/doctest.h>
#include <google/protobuf/stubs/logging.h>

#include <map>
#include <set>

#include "core/clock.h"
#include "envelope/v1/envelope.pb.h"
#include "events/event.h"
#include "tests/support/test_support.h"

namespace leat::events {
namespace {

using test::Below;
using test::Random;

// Text and the events that refer to it.
struct RandomEvent {
  std::vector<std::string> texts;
  EventView view;

  explicit RandomEvent(Random& random) {
    texts.reserve(200);
    const auto text = [&]() -> std::string_view {
      if (Below(random, 3) == 0) return {};
      texts.push_back(test::RandomText(random, Below(random, 20)));
      return texts.back();
    };
    view.type = text();
    switch (Below(random, 5)) {
      case 0: view.time_us = 0; break;
      case 1: view.time_us = INT64_MIN; break;
      case 2: view.time_us = INT64_MAX; break;
      default: view.time_us = static_cast<int64_t>(random());
    }
    if (Below(random, 2) == 0) {
      Cause cause;
      cause.topic = text();
      cause.partition = Below(random, 3) == 0 ? 0 : static_cast<uint32_t>(random());
      cause.offset = Below(random, 3) == 0 ? 0 : random();
      cause.n = static_cast<uint32_t>(Below(random, 3));
      cause.m = static_cast<uint32_t>(random());
      view.cause = cause;
    }
    view.id = text();
    view.source = text();
    view.subject = text();
    if (Below(random, 2) == 0) view.streamversion = Below(random, 3) == 0 ? 0 : random();
    view.partitionkey = text();
    view.datacontenttype = text();
    view.dataschema = text();
    view.correlationid = text();
    view.causationid = text();
    view.traceparent = text();
    std::set<std::string> names;
    for (uint64_t left = Below(random, 5); left > 0; --left) {
      names.insert("x" + std::to_string(Below(random, 100)));
    }
    for (const auto& name : names) {
      texts.push_back(name);
      const std::string_view stored = texts.back();
      view.extensions.emplace_back(stored, text());
    }
    if (Below(random, 3) != 0) {
      texts.push_back(test::RandomBytes(random, Below(random, 300)));
      view.data = texts.back();
    }
  }
};

envelope::v1::Envelope ToGenerated(const EventView& view) {
  envelope::v1::Envelope out;
  out.set_type(std::string(view.type));
  out.set_time_us(view.time_us);
  if (view.cause) {
    auto* cause = out.mutable_cause();
    cause->set_topic(std::string(view.cause->topic));
    cause->set_partition(view.cause->partition);
    cause->set_offset(view.cause->offset);
    cause->set_n(view.cause->n);
    cause->set_m(view.cause->m);
  }
  out.set_id(std::string(view.id));
  out.set_source(std::string(view.source));
  out.set_subject(std::string(view.subject));
  if (view.streamversion) out.set_streamversion(*view.streamversion);
  out.set_partitionkey(std::string(view.partitionkey));
  out.set_datacontenttype(std::string(view.datacontenttype));
  out.set_dataschema(std::string(view.dataschema));
  out.set_correlationid(std::string(view.correlationid));
  out.set_causationid(std::string(view.causationid));
  out.set_traceparent(std::string(view.traceparent));
  for (const auto& [name, value] : view.extensions) {
    (*out.mutable_extensions())[std::string(name)] = std::string(value);
  }
  out.set_data(std::string(view.data));
  return out;
}

// What both say, field by field. Extensions as a map: the last of a name counts.
void CheckAgree(const EventView& view, const envelope::v1::Envelope& generated) {
  REQUIRE(view.type == generated.type());
  REQUIRE(view.time_us == generated.time_us());
  REQUIRE(view.cause.has_value() == generated.has_cause());
  if (view.cause) {
    REQUIRE(view.cause->topic == generated.cause().topic());
    REQUIRE(view.cause->partition == generated.cause().partition());
    REQUIRE(view.cause->offset == generated.cause().offset());
    REQUIRE(view.cause->n == generated.cause().n());
    REQUIRE(view.cause->m == generated.cause().m());
  }
  REQUIRE(view.id == generated.id());
  REQUIRE(view.source == generated.source());
  REQUIRE(view.subject == generated.subject());
  REQUIRE(view.streamversion.has_value() == generated.has_streamversion());
  if (view.streamversion) REQUIRE(*view.streamversion == generated.streamversion());
  REQUIRE(view.partitionkey == generated.partitionkey());
  REQUIRE(view.datacontenttype == generated.datacontenttype());
  REQUIRE(view.dataschema == generated.dataschema());
  REQUIRE(view.correlationid == generated.correlationid());
  REQUIRE(view.causationid == generated.causationid());
  REQUIRE(view.traceparent == generated.traceparent());
  std::map<std::string, std::string> extensions;
  for (const auto& [name, value] : view.extensions) {
    extensions[std::string(name)] = std::string(value);
  }
  const std::map<std::string, std::string> others(generated.extensions().begin(),
                                                  generated.extensions().end());
  REQUIRE((extensions == others));
  REQUIRE((view.data == generated.data()));
}

TEST_CASE("our bytes are the generated codec's, both ways") {
  const uint64_t seed = test::Seed(99);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  for (int i = 0; i < 3000; ++i) {
    CAPTURE(i);
    const RandomEvent event(random);
    const auto generated = ToGenerated(event.view);
    std::string bytes;
    EncodeEvent(event.view, &bytes);
    envelope::v1::Envelope parsed;
    REQUIRE(parsed.ParseFromString(bytes));
    CheckAgree(event.view, parsed);
    // Fields come in the order of their numbers, so without a map the bytes are equal, too.
    if (event.view.extensions.size() < 2) {
      bool empty_value = false;
      for (const auto& extension : event.view.extensions) empty_value |= extension.second.empty();
      if (!empty_value) REQUIRE((bytes == generated.SerializeAsString()));
    }
    const auto decoded = DecodeEvent(generated.SerializeAsString());
    // The views are into a string that is gone; decode again what is kept.
    REQUIRE(decoded.has_value());
    const std::string kept = generated.SerializeAsString();
    CheckAgree(*DecodeEvent(kept), generated);
    CheckAgree(*DecodeEvent(bytes), generated);
  }
}

TEST_CASE("an Event owns its text, through copies and moves") {
  Random random(3);
  for (int i = 0; i < 200; ++i) {
    Event kept;
    std::string bytes;
    {
      const RandomEvent event(random);
      EncodeEvent(event.view, &bytes);
      Event first(event.view);
      Event copy(first);
      Event moved(std::move(first));
      Event assigned;
      assigned = copy;
      assigned = std::move(moved);
      kept = assigned;
      kept = *&kept;  // NOLINT: to itself
    }
    std::vector<Event> many(3, kept);
    many.insert(many.begin(), kept);
    std::string again;
    EncodeEvent(many[2].view(), &again);
    CHECK((again == bytes));
  }
}

TEST_CASE("every truncation of an envelope is refused or is a shorter envelope") {
  const google::protobuf::LogSilencer silencer;
  const uint64_t seed = test::Seed(7);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  for (int i = 0; i < 60; ++i) {
    const RandomEvent event(random);
    std::string bytes;
    EncodeEvent(event.view, &bytes);
    for (size_t size = 0; size < bytes.size(); ++size) {
      // In a heap block of its own size, so that a read past its end is found.
      const std::vector<char> part(bytes.begin(), bytes.begin() + static_cast<long>(size));
      const auto decoded = DecodeEvent({part.data(), part.size()});
      envelope::v1::Envelope generated;
      const bool parsed = generated.ParseFromArray(part.data(), static_cast<int>(part.size()));
      REQUIRE(decoded.has_value() == parsed);
      if (decoded) {
        CheckAgree(*decoded, generated);
      } else {
        REQUIRE(decoded.error().error_class == ErrorClass::kCorrupt);
      }
    }
  }
}

TEST_CASE("flipped bytes never crash, and what both codecs accept they read alike") {
  const google::protobuf::LogSilencer silencer;
  const uint64_t seed = test::Seed(2024);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  const int rounds = test::Full() ? 400'000 : 40'000;
  int both = 0;
  for (int i = 0; i < rounds; ++i) {
    const RandomEvent event(random);
    std::string bytes;
    EncodeEvent(event.view, &bytes);
    if (bytes.empty()) continue;
    for (uint64_t flips = 1 + Below(random, 3); flips > 0; --flips) {
      bytes[Below(random, bytes.size())] = static_cast<char>(random());
    }
    const std::vector<char> heap(bytes.begin(), bytes.end());
    const auto decoded = DecodeEvent({heap.data(), heap.size()});
    envelope::v1::Envelope generated;
    if (!generated.ParseFromArray(heap.data(), static_cast<int>(heap.size()))) continue;
    // Groups are the one thing that Protobuf passes over and we do not.
    if (!decoded) continue;
    ++both;
    CAPTURE(i);
    CheckAgree(*decoded, generated);
  }
  CHECK(both > rounds / 20);
}

TEST_CASE("bytes at random never crash") {
  Random random(test::Seed(55));
  for (int i = 0; i < 20'000; ++i) {
    const std::string bytes = test::RandomBytes(random, Below(random, 60));
    const std::vector<char> heap(bytes.begin(), bytes.end());
    (void)DecodeEvent({heap.data(), heap.size()});
  }
}

TEST_CASE("a known number with another wire type is an unknown field, not the last one's value") {
  std::string bytes;
  EventView view;
  view.type = "t.v1";
  view.time_us = 5;
  EncodeEvent(view, &bytes);
  bytes += std::string("\x12\x01x", 3);     // time_us as bytes
  bytes += std::string("\x20\x07", 2);      // id as a number
  bytes += std::string("\x38\x02", 2);      // streamversion, good
  bytes += std::string("\x3a\x01y", 3);     // streamversion as bytes
  const auto decoded = DecodeEvent(bytes);
  REQUIRE(decoded.has_value());
  CHECK(decoded->time_us == 5);
  CHECK(decoded->id.empty());
  CHECK(decoded->streamversion == 2);
}

TEST_CASE("more extensions than allowed are refused when read") {
  EventView view;
  view.extensions.assign(kExtensionsMax, {"e", "v"});
  std::string bytes;
  EncodeEvent(view, &bytes);
  CHECK(DecodeEvent(bytes).has_value());
  view.extensions.emplace_back("e", "v");
  bytes.clear();
  EncodeEvent(view, &bytes);
  CHECK(test::ClassOf(DecodeEvent(bytes)) == ErrorClass::kCorrupt);
}

TEST_CASE("limits name what is beyond them") {
  const auto refused = [](const std::function<void(EventView*)>& change) {
    EventView view;
    view.type = "t.v1";
    change(&view);
    const auto status = CheckLimits(view);
    if (status) return std::string();
    CHECK(status.error().error_class == ErrorClass::kInvalid);
    return status.error().message;
  };
  const std::string exact(kAttributeBytesMax, 'x');
  const std::string longer = exact + "x";
  const std::string data(kDataBytesMax, 'x');
  const std::string more_data = data + "x";
  CHECK(refused([](EventView*) {}).empty());
  CHECK(refused([&](EventView* v) { v->subject = exact; v->id = exact; v->type = exact; }).empty());
  CHECK(refused([&](EventView* v) { v->subject = longer; }).starts_with("subject:"));
  CHECK(refused([&](EventView* v) { v->id = longer; }).starts_with("id:"));
  CHECK(refused([&](EventView* v) { v->source = longer; }).starts_with("source:"));
  CHECK(refused([&](EventView* v) { v->traceparent = longer; }).starts_with("traceparent:"));
  CHECK(refused([&](EventView* v) { v->cause = Cause{longer, 0, 0, 1, 1}; }).starts_with("cause:"));
  CHECK(refused([&](EventView* v) { v->data = data; }).empty());
  CHECK(refused([&](EventView* v) { v->data = more_data; }).starts_with("data:"));
  CHECK(refused([&](EventView* v) { v->extensions = {{"good1", exact}}; }).empty());
  CHECK(refused([&](EventView* v) { v->extensions = {{"good1", longer}}; }).starts_with("good1:"));
  for (const std::string& name : {std::string(), std::string("Upper"), std::string("a-b"),
                                  std::string("ä"), std::string(65, 'a'), std::string("a\0", 2)}) {
    CHECK_FALSE(refused([&](EventView* v) { v->extensions = {{name, "v"}}; }).empty());
  }
  CHECK(refused([](EventView* v) { v->time_us = core::kTimeMaxUs; }).empty());
  CHECK(refused([](EventView* v) { v->time_us = core::kTimeMaxUs + 1; }).starts_with("time:"));
  CHECK(refused([](EventView* v) { v->time_us = core::kTimeMinUs - 1; }).starts_with("time:"));
}

TEST_CASE("ids of decided events come from their cause") {
  EventView view;
  CHECK(EventId(view).empty());
  view.cause = Cause{"chain.blocks", 3, 17, 2, 5};
  CHECK(EventId(view) == "chain.blocks/3@17#2");
  view.id = "given";
  CHECK(EventId(view) == "given");
}

TEST_CASE("a stream's category") {
  CHECK(CategoryOf("account-7-x") == "account");
  CHECK(CategoryOf("account") == "account");
  CHECK(CategoryOf("-x").empty());
  CHECK(CategoryOf("").empty());
}

}  // namespace
}  // namespace leat::events
