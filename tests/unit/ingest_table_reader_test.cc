#include <doctest/doctest.h>
#include <stdlib.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "producers/ingest/table_reader.h"

namespace leat::ingest {
namespace {

class TempFolder {
 public:
  TempFolder() {
    char name[] = "/tmp/leat-table-reader-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }

  std::string Write(const std::string& name, const std::string& bytes) const {
    const std::string path = path_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

 private:
  std::string path_;
};

std::string Gzip(const std::string& bytes) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// The rows as "line:field|field|…", or the error's text behind the rows before it.
std::string ReadAll(const std::string& path, std::initializer_list<Column> columns) {
  auto reader = TableReader::Open(path);
  if (!reader) return reader.error().Text();
  std::string out;
  for (;;) {
    const auto more = (*reader)->Next();
    if (!more) return out + more.error().Text();
    if (!*more) return out;
    out += std::to_string((*reader)->line()) + ":";
    for (const Column column : columns) out += std::string((*reader)->Get(column)) + "|";
    out += "\n";
  }
}

bool Contains(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE("in: ", text, "\nnot: ", part);
  return found;
}

TEST_CASE("ingest table: every column has its name") {
  CHECK(ColumnName(Column::kType) == "type");
  CHECK(ColumnName(Column::kBlockNumber) == "block_number");
  CHECK(ColumnName(Column::kTransactionHash) == "transaction_hash");
  CHECK(ColumnName(Column::kAmountGwei) == "amount_gwei");
}

TEST_CASE("ingest table: CSV as RFC 4180 has it") {
  const TempFolder folder;
  const auto columns = {Column::kNumber, Column::kError, Column::kValue};
  CHECK(ReadAll(folder.Write("plain.csv", "number,x,error,value\n1,y,,3\n\n2,,e,4"), columns) ==
        "2:1||3|\n4:2|e|4|\n");
  CHECK(ReadAll(folder.Write("crlf.csv", "\xef\xbb\xbfnumber,error,value\r\n1,a,2\r\n"), columns) ==
        "2:1|a|2|\n");
  CHECK(ReadAll(folder.Write("quoted.csv",
                             "\"number\",error,value\n1,\"a,\"\"b\"\"\nc\",2\n3,\"\",\"4\"\n"),
                columns) == "2:1|a,\"b\"\nc|2|\n4:3||4|\n");
  CHECK(ReadAll(folder.Write("header_only.csv", "number,error\n"), columns).empty());
}

TEST_CASE("ingest table: fields and rows larger than the buffer") {
  const TempFolder folder;
  const std::string large(3'000'000, 'x');
  const std::string csv = "number,error\n1," + large + "\n2,\"" + large + "\n,\"\n3,end\n";
  const std::string expected = "2:1|" + large + "|\n3:2|" + large + "\n,|\n5:3|end|\n";
  const auto columns = {Column::kNumber, Column::kError};
  CHECK((ReadAll(folder.Write("a.csv", csv), columns) == expected));
  CHECK((ReadAll(folder.Write("a.csv.gz", Gzip(csv)), columns) == expected));
}

TEST_CASE("ingest table: gzip by its bytes, in several members") {
  const TempFolder folder;
  const auto columns = {Column::kNumber};
  const std::string members = Gzip("number\n1\n") + Gzip("2\n") + Gzip("") + Gzip("3\n");
  CHECK(ReadAll(folder.Write("no_suffix.csv", members), columns) == "2:1|\n3:2|\n4:3|\n");
  CHECK(ReadAll(folder.Write("padded.csv", members + std::string(512, '\0')), columns) ==
        "2:1|\n3:2|\n4:3|\n");

  std::string many = "number\n";
  for (int i = 0; i < 200'000; ++i) many += std::to_string(i) + "\n";
  const std::string whole = Gzip(many);
  CHECK(Contains(ReadAll(folder.Write("cut.csv.gz", whole.substr(0, whole.size() / 2)), columns),
                 "cut.csv.gz: the gzip data is truncated (fetch or write the file again"));
  CHECK(Contains(ReadAll(folder.Write("tail.csv.gz", whole.substr(0, whole.size() - 3)), columns),
                 "tail.csv.gz: the gzip data is truncated"));
  std::string damaged = whole;
  damaged[damaged.size() - 6] ^= 1;  // the checksum
  CHECK(Contains(ReadAll(folder.Write("bad.csv.gz", damaged), columns),
                 "bad.csv.gz: the gzip data is damaged"));
}

TEST_CASE("ingest table: JSON lines, with numbers beyond 64 bits") {
  const TempFolder folder;
  const std::string path = folder.Write(
      "rows.json",
      "{\"type\": \"block\", \"number\": 1, \"skipped\": {\"a\": [1, \"}\"]}, "
      "\"value\": 58750003716598352816469 , \"error\": null}\n"
      "\n"
      "{\"value\":\"7\",\"number\":2,\"trace_address\":[0, 1],\"error\":\"a \\\"b\\\"\"}\r\n"
      "{}");
  CHECK(ReadAll(path, {Column::kType, Column::kNumber, Column::kValue, Column::kError,
                       Column::kTraceAddress}) ==
        "1:block|1|58750003716598352816469|||\n"
        "3:|2|7|a \\\"b\\\"|[0, 1]|\n"
        "4:|||||\n");
  auto reader = TableReader::Open(path);
  REQUIRE(reader);
  REQUIRE((*reader)->Next());
  CHECK((*reader)->Has(Column::kError));  // null: named, but absent
  CHECK(!(*reader)->Has(Column::kHash));
}

TEST_CASE("ingest table: what is wrong is named with file and line") {
  const TempFolder folder;
  const auto columns = {Column::kNumber, Column::kError};
  const auto text = [&](const std::string& name, const std::string& bytes) {
    return ReadAll(folder.Write(name, bytes), columns);
  };
  CHECK(Contains(ReadAll("/nowhere/blocks.csv", columns), "/nowhere/blocks.csv: cannot be opened"));
  CHECK(Contains(ReadAll("/tmp", columns), "/tmp: is not a regular file"));
  CHECK(Contains(text("empty.csv", ""), "empty.csv: the file is empty"));
  CHECK(Contains(text("empty.csv.gz", Gzip("")), "empty.csv.gz: the file is empty"));
  CHECK(Contains(text("array.json", " [{}]"), "array.json: is one JSON array"));
  CHECK(Contains(text("twice.csv", "number,error,number\n"),
                 "twice.csv:1: column number comes twice (keep one of them)"));
  CHECK(Contains(text("few.csv", "number,error\n1,\n2\n"),
                 "few.csv:3: 1 fields where the header names 2 columns"));
  CHECK(Contains(text("many.csv", "number,error\n1,2,3\n"),
                 "many.csv:2: 3 fields where the header names 2 columns"));
  CHECK(Contains(text("open.csv", "number,error\n1,a\n2,\"b\n3,c\n"),
                 "open.csv:3: a quoted field is not closed before the file ends"));
  CHECK(Contains(text("after.csv", "number,error\n1,\"a\"b\n"),
                 "after.csv:2: text behind the closing quote of field 2"));
  CHECK(Contains(text("inside.csv", "number,error\n1,a\"b\"\n"),
                 "inside.csv:2: a quote inside field 2"));
  std::string wide = "number";
  for (size_t i = 0; i < kColumnsMax; ++i) wide += ",c";
  CHECK(Contains(text("wide.csv", wide + "\n"), "wide.csv:1: more than 1024 columns"));
  CHECK(Contains(text("large.csv", "number,error\n1," + std::string(kFieldBytesMax + 1, 'x')),
                 "large.csv:2: field 2 has 16777217 bytes (at most 16 MiB are taken)"));
  CHECK(Contains(text("endless.csv", "number,error\n1,\"" + std::string(kRowBytesMax, 'x')),
                 "endless.csv:2: a row of more than 64 MiB"));
  CHECK(Contains(text("cut.json", "{\"number\":1}\n{\"number\":2"),
                 "1:1||\n" + folder.Write("cut.json", "") + ":2: is not a JSON object"));
  CHECK(Contains(text("list.json", "{\"number\":1}\n[1]\n"), "list.json:2: is not a JSON object"));
  CHECK(
      Contains(text("behind.json", "{\"number\":1} {}\n"), "behind.json:1: is not a JSON object"));
  CHECK(Contains(text("twice.json", "{\"number\":1,\"number\":2}\n"),
                 "twice.json:1: member number comes twice"));
}

}  // namespace
}  // namespace leat::ingest
