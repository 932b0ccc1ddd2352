// The feed as a part of a process: what another one left half done.
#include <doctest/doctest.h>

#include "bus/embedded/embedded_transport.h"
#include "producers/ingest/service.h"
#include "runtime/inbox.h"
#include "tests/support/test_support.h"

namespace leat::ingest {
namespace {

using test::Must;

constexpr auto kPatience = std::chrono::seconds(60);
constexpr std::string_view kChain = "eip155:1";
using Balances = std::vector<std::pair<Address, Amount>>;

// Enough for three parts.
Balances Many(uint64_t wei) {
  Balances balances;
  for (uint32_t i = 0; i < 40'000; ++i) {
    Address address;
    for (size_t byte = 0; byte < sizeof i; ++byte) {
      address.data[byte] = static_cast<uint8_t>(i >> (8 * byte));
    }
    balances.emplace_back(address, Amount(wei));
  }
  return balances;
}

struct World {
  test::TempFolder temp;
  std::unique_ptr<bus::EmbeddedTransport> transport;
  std::unique_ptr<Service> service;

  World() {
    transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
    Must(transport->CreateTopic(kChainBlocksTopic, 1, {.owner = "ingest"}));
    ServiceOptions options;
    options.path = temp.Sub("ingest");
    options.relayed = true;
    service = Must(Service::Open(options, transport.get()));
  }
  // What counts on the topic: ids and data.
  std::vector<std::pair<std::string, std::string>> Topic() {
    std::vector<std::pair<std::string, std::string>> out;
    const uint64_t end = Must(transport->End(kChainBlocksTopic, 0)).offset;
    const auto subscription = Must(transport->Subscribe(kChainBlocksTopic, 0, 0));
    runtime::InputPosition position;
    runtime::Window window;
    bus::MessageBatch batch;
    while (position.next < end) {
      Must(subscription->Poll({}, &batch));
      for (const auto& message : batch.messages) {
        if (!Must(runtime::Admit(kChainBlocksTopic, message, &position, &window)).counts()) continue;
        out.emplace_back(message.event.id, message.event.data);
      }
    }
    return out;
  }
};

TEST_CASE("ingest: opening balances of which an owner published a part are finished by the next") {
  World whole;
  Must(whole.service->Own({}));
  Must(whole.service->SubmitOpening(kChain, Many(7), kPatience));
  const auto expected = whole.Topic();
  REQUIRE(expected.size() == 3);
  for (size_t there = 0; there <= expected.size(); ++there) {
    CAPTURE(there);
    World world;
    std::vector<events::Event> published{runtime::MakeClaim("ingest-0", 1, "before")};
    const std::string source = runtime::OwnedSource("ingest-0", 1, 1);
    const std::string stream = ChainStream(kChain);
    for (size_t i = 0; i < there; ++i) {
      events::EventView view;
      view.type = "chain.opening_observed.v1";
      view.id = expected[i].first;
      view.source = source;
      view.subject = stream;
      view.partitionkey = kChain;
      view.position = i;
      view.data = expected[i].second;
      published.emplace_back(view);
    }
    Must(world.transport->PublishTo(kChainBlocksTopic, 0, published));
    Must(world.service->Own({}));
    if (there > 0) {
      const auto other = world.service->SubmitOpening(kChain, Many(8), kPatience);
      CHECK(test::ClassOf(other) == ErrorClass::kConflict);
    }
    Must(world.service->SubmitOpening(kChain, Many(7), kPatience));
    CHECK((world.Topic() == expected));
    Must(world.service->SubmitOpening(kChain, Many(7), kPatience));
    CHECK(world.Topic().size() == expected.size());
  }
}

TEST_CASE("ingest: what is submitted without owning the partition is not taken") {
  World world;
  CHECK(test::ClassOf(world.service->SubmitOpening(kChain, Many(7), kPatience)) ==
        ErrorClass::kUnavailable);
  Must(world.service->Own({}));
  world.service->Rest();
  CHECK(test::ClassOf(world.service->Knows(kChain, Hash())) == ErrorClass::kUnavailable);
  CHECK(world.Topic().empty());
}

}  // namespace
}  // namespace leat::ingest
