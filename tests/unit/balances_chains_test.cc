// Chains get numbers, which stand in the keys of their rows: they must outlive whatever ends the process.
#include "bus/embedded/embedded_transport.h"
#include "consumers/balances/balances.h"
#include "consumers/balances/queries.h"
#include "events/registry.h"
#include "runtime/projection_runner.h"
#include "runtime/shard.h"
#include "tests/support/test_support.h"

namespace leat::balances {
namespace {

using test::Must;

constexpr std::string_view kTopic = "ledger.entries";
constexpr auto kPatience = std::chrono::seconds(60);

Address Holder() {
  Address address;
  address.data.fill(0xaa);
  return address;
}

// An opening balance: what a chain may have before its first block.
events::Event Opening(std::string_view chain, uint64_t wei) {
  ledger::v1::EntriesPosted posted;
  posted.set_chain(std::string(chain));
  auto* leg = posted.add_legs();
  leg->set_address(std::string(Holder().View()));
  leg->set_magnitude(Amount(wei).Magnitude());
  leg->set_kind(ledger::v1::LEG_OPENING);
  test::EventParts parts;
  parts.type = events::kEntriesPosted;
  parts.id = test::FreshId();
  parts.data = posted.SerializeAsString();
  return test::MakeEvent(parts);
}

// The projection on a shard, from its opening to its end.
struct Life {
  std::unique_ptr<runtime::Shard> shard;
  Balances projection;
  std::unique_ptr<runtime::ProjectionRunner> runner;

  Life(const std::string& path, bus::EmbeddedTransport* transport, uint64_t applied) {
    runtime::ShardOptions options;
    options.path = path;
    options.name = "balances-0";
    options.resources = test::SmallResources();
    shard = Must(runtime::Shard::Open(options));
    runtime::RunnerOptions input;
    input.topic = kTopic;
    runner = std::make_unique<runtime::ProjectionRunner>(shard.get(), &projection, transport, input);
    Must(runner->Start());
    REQUIRE(runner->status().WaitApplied(applied, kPatience));
  }
  std::string BalanceOf(std::string_view chain) const {
    const auto view = runner->view();
    const Queries queries(*view);
    const Moment moment = Must(queries.Resolve(chain, {}));
    return Must(queries.BalanceOf(moment, AccountKey::Mirrored(Holder()))).amount.ToDecimal();
  }
};

TEST_CASE("balances: a chain keeps its number over a restart before its first block") {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic(std::string(kTopic), 1));
  const auto publish = [&](std::string_view chain, uint64_t wei) {
    Must(transport->Publish(std::string(kTopic), {Opening(chain, wei)}));
  };
  publish("eip155:1", 7);
  CHECK(Life(temp.Sub("shard"), transport.get(), 1).BalanceOf("eip155:1") == "7");
  publish("eip155:2", 5);
  publish("eip155:1", 1);
  const Life life(temp.Sub("shard"), transport.get(), 3);
  CHECK(life.BalanceOf("eip155:1") == "8");
  CHECK(life.BalanceOf("eip155:2") == "5");
}

}  // namespace
}  // namespace leat::balances
