from pathlib import Path

from srpo_ray.tracking.spool import Spool


def test_records_leave_in_order_once_acknowledged(tmp_path: Path):
    spool = Spool(tmp_path / "s.jsonl")
    for number in range(5):
        spool.append({"n": number})
    first = spool.read(limit=2)
    assert [record["n"] for record, _ in first] == [0, 1]
    spool.acknowledge(first[-1][1])
    assert [record["n"] for record, _ in spool.read(limit=10)] == [2, 3, 4]


def test_reopening_continues_after_the_last_acknowledged_record(tmp_path: Path):
    spool = Spool(tmp_path / "s.jsonl")
    spool.append({"n": 0})
    spool.append({"n": 1})
    spool.acknowledge(spool.read(limit=1)[0][1])
    spool.close()
    again = Spool(tmp_path / "s.jsonl")
    again.append({"n": 2})
    assert [record["n"] for record, _ in again.read(limit=10)] == [1, 2]


def test_a_line_cut_short_by_a_crash_damages_only_itself(tmp_path: Path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1, "val')
    spool = Spool(path)
    spool.append({"n": 2})
    assert [record for record, _ in spool.read(limit=10)] == [{"n": 0}, {}, {"n": 2}]


def test_a_line_still_being_written_is_not_read(tmp_path: Path):
    spool = Spool(tmp_path / "s.jsonl")
    spool.append({"n": 0})
    with spool.path.open("ab") as file:
        file.write(b'{"n"')
    assert len(spool.read(limit=10)) == 1


def test_an_offset_without_its_spool_is_forgotten(tmp_path: Path):
    (tmp_path / "s.jsonl.offset").write_text("100")
    spool = Spool(tmp_path / "s.jsonl")
    spool.append({"n": 0})
    assert not spool.is_empty()


def test_closing_deletes_only_an_empty_spool(tmp_path: Path):
    spool = Spool(tmp_path / "s.jsonl")
    spool.append({"n": 0})
    spool.close()
    assert spool.path.exists()
    again = Spool(spool.path)
    again.acknowledge(again.read(limit=1)[0][1])
    again.close()
    assert list(tmp_path.iterdir()) == []
