// The Ethereum consensus tests that a ledger without an EVM reproduces: each case is written as ethereum-etl files, read
// and put together by ingest, decided by the ledger from its topic, and asked of the balances; one data folder, one chain
// id a case. Reward rows are written as a tracing node writes them, by the rules of the case's network.
//
//   ledger_cases --cases FILE.jsonl.gz [--hashes FILE] [--keep DIR]
#include <zlib.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/node.h"
#include "chain/v1/chain.pb.h"
#include "consumers/balances/queries.h"
#include "core/hash.h"
#include "core/log.h"
#include "producers/ingest/block_reader.h"

namespace {

using leat::Amount;
using leat::Status;
using nlohmann::json;

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "ledger_cases: %s\n", message.c_str());
  std::exit(1);
}

template <typename T>
T Must(leat::Result<T> result, const std::string& what) {
  if (!result) Die(what + ": " + result.error().Text());
  return std::move(*result);
}
void Must(const Status& status, const std::string& what) {
  if (!status) Die(what + ": " + status.error().Text());
}

std::vector<json> ReadCases(const std::string& path) {
  const gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) Die("cannot open " + path);
  std::string text;
  char buffer[1 << 16];
  for (int got; (got = gzread(file, buffer, sizeof buffer)) > 0;) text.append(buffer, got);
  gzclose(file);
  std::vector<json> cases;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    cases.push_back(json::parse(text.substr(begin, end - begin)));
  }
  return cases;
}

// The static block reward of a network, in ether.
uint64_t BlockReward(const std::string& network, uint64_t number) {
  static const std::map<std::string, uint64_t> kRewards = {
      {"Frontier", 5}, {"Homestead", 5}, {"EIP150", 5}, {"EIP158", 5}, {"Byzantium", 3},
      {"Constantinople", 2}, {"ConstantinopleFix", 2}, {"Istanbul", 2}, {"Berlin", 2},
      {"London", 2}, {"Paris", 0}, {"Shanghai", 0}, {"Cancun", 0}, {"FrontierToHomesteadAt5", 5},
      {"BerlinToLondonAt5", 2}};
  if (network == "EIP158ToByzantiumAt5") return number < 5 ? 5 : 3;
  const auto found = kRewards.find(network);
  if (found == kRewards.end()) Die("unknown network " + network);
  return found->second;
}

std::string Number(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Amount Decimal(const json& value) { return Must(Amount::ParseDecimal(Number(value)), "number"); }

// One line of a traces file.
json Trace(uint64_t block, const std::string& block_hash, const std::string& type) {
  return {{"block_number", block}, {"block_hash", block_hash}, {"trace_type", type},
          {"from_address", nullptr}, {"to_address", nullptr}, {"value", "0"},
          {"transaction_hash", nullptr}, {"transaction_index", nullptr},
          {"trace_address", json::array()}};
}

struct Files {
  std::ofstream blocks, transactions, receipts, traces;
  explicit Files(const std::string& folder)
      : blocks(folder + "/blocks.json"),
        transactions(folder + "/transactions.json"),
        receipts(folder + "/receipts.json"),
        traces(folder + "/traces.json") {}
};

void WriteCase(const json& test, const std::string& folder) {
  Files out(folder);
  const std::string genesis = test["genesis_hash"];
  const std::string network = test["network"];
  const std::string no_hash = "0x" + std::string(64, '0');
  // A total difficulty of one for the genesis: only differences count.
  std::map<std::string, Amount> total_difficulty = {{genesis, Amount(1)}};
  out.blocks << json{{"number", 0}, {"hash", genesis}, {"parent_hash", no_hash},
                     {"miner", "0x" + std::string(40, '0')}, {"timestamp", 0},
                     {"difficulty", "1"}, {"total_difficulty", "1"}, {"gas_limit", 0},
                     {"gas_used", 0}, {"transaction_count", 0}, {"base_fee_per_gas", nullptr}}
             << "\n";
  for (const auto& [address, balance] : test["pre"].items()) {
    json trace = Trace(0, genesis, "genesis");
    trace["to_address"] = address;
    trace["value"] = Number(balance);
    out.traces << trace << "\n";
  }
  for (const json& block : test["import_order"]) {
    const uint64_t number = block["number"];
    const std::string hash = block["hash"];
    Amount total = total_difficulty.at(block["parent_hash"]);
    total += Decimal(block["difficulty"]);
    total_difficulty[hash] = total;
    json withdrawals = json::array();
    for (size_t i = 0; i < block["withdrawals"].size(); ++i) {
      const json& withdrawal = block["withdrawals"][i];
      withdrawals.push_back({{"index", withdrawal["index"]}, {"validator_index", 0},
                             {"address", withdrawal["address"]},
                             {"amount", withdrawal["amount_gwei"]}});
    }
    out.blocks << json{{"number", number}, {"hash", hash}, {"parent_hash", block["parent_hash"]},
                       {"miner", block["miner"]}, {"timestamp", block["timestamp"]},
                       {"difficulty", Number(block["difficulty"])},
                       {"total_difficulty", total.ToDecimal()}, {"gas_limit", 0},
                       {"gas_used", block["gas_used"]},
                       {"transaction_count", block["transactions"].size()},
                       {"base_fee_per_gas", block["base_fee_per_gas"]},
                       {"withdrawals", withdrawals}}
               << "\n";
    for (size_t i = 0; i < block["transactions"].size(); ++i) {
      const json& transaction = block["transactions"][i];
      // The cases name no transaction hashes; sender and nonce are as good.
      const std::string transaction_hash =
          leat::core::Keccak256(transaction["from"].get<std::string>() + "|" +
                                Number(transaction["nonce"])).Hex();
      const bool dynamic = !transaction["max_fee_per_gas"].is_null();
      out.transactions << json{{"hash", transaction_hash}, {"block_hash", hash},
                               {"block_number", number}, {"transaction_index", i},
                               {"nonce", Number(transaction["nonce"])},
                               {"from_address", transaction["from"]},
                               {"to_address", transaction["to"]},
                               {"value", Number(transaction["value"])},
                               {"gas", Number(transaction["gas"])},
                               {"gas_price", transaction["gas_price"]},
                               {"max_fee_per_gas", transaction["max_fee_per_gas"]},
                               {"max_priority_fee_per_gas",
                                transaction["max_priority_fee_per_gas"]},
                               {"transaction_type", dynamic ? 2 : 0}}
                       << "\n";
      out.receipts << json{{"transaction_hash", transaction_hash}, {"transaction_index", i},
                           {"block_hash", hash}, {"block_number", number},
                           {"gas_used", transaction["gas_used"]},
                           {"contract_address", transaction["created_address"]}}
                   << "\n";
      json root = Trace(number, hash, transaction["to"].is_null() ? "create" : "call");
      root["transaction_hash"] = transaction_hash;
      root["transaction_index"] = i;
      root["from_address"] = transaction["from"];
      root["to_address"] = transaction["to"].is_null() ? transaction["created_address"]
                                                       : transaction["to"];
      root["value"] = Number(transaction["value"]);
      if (!transaction["to"].is_null()) root["call_type"] = "call";
      out.traces << root << "\n";
    }
    // As a tracing node reports rewards: 1/32 more for each uncle, (8 + uncle - block)/8 for the uncle's miner.
    const Amount reward =
        Amount(BlockReward(network, number)) * Amount(1'000'000'000'000'000'000ull);
    if (reward.IsZero()) continue;
    const uint64_t uncles = block["uncles"].size();
    json trace = Trace(number, hash, "reward");
    trace["reward_type"] = "block";
    trace["to_address"] = block["miner"];
    trace["value"] = (reward + reward.DividedBy(Amount(32)) * Amount(uncles)).ToDecimal();
    out.traces << trace << "\n";
    for (const json& uncle : block["uncles"]) {
      trace["reward_type"] = "uncle";
      trace["to_address"] = uncle["miner"];
      trace["value"] = (reward * Amount(8 + uncle["number"].get<uint64_t>() - number))
                           .DividedBy(Amount(8))
                           .ToDecimal();
      out.traces << trace << "\n";
    }
  }
}

void IngestCase(leat::apps::Node* node, const std::string& folder, const std::string& chain,
                const std::string& scratch) {
  leat::ingest::ReadOptions options;
  options.paths = {folder};
  options.chain = chain;
  options.scratch_dir = scratch;
  const auto reader = Must(leat::ingest::BlockReader::Open(options), chain);
  std::vector<leat::chain::v1::BlockObserved> blocks;
  for (;;) {
    leat::chain::v1::BlockObserved block;
    if (!Must(reader->Next(&block), chain)) break;
    blocks.push_back(std::move(block));
  }
  Must(node->feed()->Submit(blocks), chain);
}

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  std::string cases_path, hashes_path, keep;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--cases") cases_path = argv[i + 1];
    else if (flag == "--hashes") hashes_path = argv[i + 1];
    else if (flag == "--keep") keep = argv[i + 1];
    else Die("unknown flag " + flag);
  }
  if (cases_path.empty()) cases_path = "../shared/data/golden/ledger_cases.jsonl.gz";
  if (!std::filesystem::exists(cases_path)) {
    std::printf("SKIPPED: %s is not there; name the cases with --cases\n", cases_path.c_str());
    return 77;
  }
  const std::string base =
      keep.empty() ? std::filesystem::temp_directory_path().string() + "/leat_ledger_cases." +
                         std::to_string(getpid())
                   : keep;
  std::filesystem::remove_all(base);
  const auto cases = ReadCases(cases_path);

  leat::apps::NodeOptions options;
  options.data = base + "/data";
  auto node = Must(leat::apps::Node::Open(options), "open");
  const auto chain_of = [](const json& test) {
    return "eip155:" + std::to_string(1'000'000 + test["id"].get<uint64_t>());
  };
  const std::string folder = base + "/case";
  for (const json& test : cases) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    WriteCase(test, folder);
    IngestCase(node.get(), folder, chain_of(test), base + "/scratch");
  }
  Must(node->CatchUp(nullptr), "catch up");

  std::ofstream hashes;
  if (!hashes_path.empty()) hashes.open(hashes_path, std::ios::trunc);
  size_t compared = 0, wrong = 0, reorganised = 0, exact = 0;
  const auto view = node->balances()->view();
  const leat::balances::Queries queries(*view);
  std::string previous;
  for (const json& test : cases) {
    const std::string chain = chain_of(test);
    const auto moment = Must(queries.Resolve(chain, {}), chain);
    std::string lines;
    std::map<std::string, std::string> got;
    Must(queries.ForEachBalance(moment, [&](const leat::Address& address, const Amount& amount) {
      if (amount.IsZero()) return true;
      lines += address.Hex() + "," + amount.ToDecimal() + "\n";
      got[address.Hex()] = amount.ToDecimal();
      return true;
    }), chain);
    if (hashes.is_open()) {
      hashes << test["id"].get<uint64_t>() << " "
             << leat::core::Sha256(lines).Hex().substr(2, 16) << "\n";
    }
    exact += moment.block->closed.completeness() == leat::ledger::v1::COMPLETENESS_EXACT;
    const std::string head = leat::core::ToHex(moment.block->closed.block_hash());
    // The chain that was imported last is not always the one that wins.
    if (!test["import_order"].empty() && test.contains("head_hash") &&
        test["import_order"].back()["hash"] != head) {
      ++reorganised;
    }
    if (!test.contains("post")) continue;
    ++compared;
    std::map<std::string, std::string> expected;
    for (const auto& [address, balance] : test["post"].items()) {
      if (Number(balance) != "0") expected[address] = Number(balance);
    }
    const bool head_right = test["head_hash"] == head;
    if (got != expected || !head_right) {
      if (++wrong <= 10) {
        std::printf("WRONG %s (id %d): %s\n", test["name"].get<std::string>().c_str(),
                    test["id"].get<int>(), head_right ? "balances differ" : "another head");
        for (const auto& [address, balance] : expected) {
          if (got[address] != balance) {
            std::printf("  %s expected %s, got %s\n", address.c_str(), balance.c_str(),
                        got[address].c_str());
          }
        }
      }
    }
  }
  std::printf("%zu cases through ingest, topics, ledger and balances; %zu compared with post, %zu wrong; "
              "%zu exact; %zu end on another branch than the last block's\n",
              cases.size(), compared, wrong, exact, reorganised);
  if (hashes.is_open()) {
    hashes.flush();
    if (!hashes) Die("writing " + hashes_path);
  }
  node.reset();
  if (keep.empty()) std::filesystem::remove_all(base);
  return wrong == 0 && compared > 0 ? 0 : 1;
}
