"""What a study says of itself comes back as it was, without passwords."""

import json

from sweeps.search.study.attributes import CARD
from sweeps.views.card import StudyCard, without_passwords
from sweeps.views.run_folder import open_run


def test_a_card_comes_back_from_the_storage(ran) -> None:
    card = open_run(ran).card
    assert [meter.name for meter in card.objectives] == ["weight_bytes", "accuracy"]
    assert card.directions == ["minimize", "maximize"]
    assert card.techniques["quantize.bits"] == "quantize"
    assert card.base.readings["accuracy"].value == card.base_point.readings["accuracy"][0]
    assert set(card.base.costs) | set(card.base.qualities) == {meter.name for meter in card.meters}
    assert [(data.context, data.rows) for data in card.datasets][1:] == [("validation", 400), ("test", 400)]
    assert "+exp=quickstart" in card.command


def test_keeping_a_card_twice_writes_once_and_names_the_objectives(ran, tmp_path) -> None:
    import shutil

    shutil.copytree(ran, tmp_path / "small")
    opened = open_run(tmp_path / "small")
    before = (tmp_path / "small" / "journal.log").stat().st_size
    opened.card.keep(opened.study)
    assert (tmp_path / "small" / "journal.log").stat().st_size == before
    assert opened.study.metric_names == ["weight_bytes", "accuracy"]


def test_a_card_is_plain_enough_for_json(ran) -> None:
    from dataclasses import asdict

    card = open_run(ran).card
    kept = json.loads(json.dumps(asdict(card)))
    assert kept["plain"] == card.plain
    assert isinstance(card, StudyCard)


def test_the_budget_is_on_either_side(ran) -> None:
    opened = open_run(ran)
    within = [p for p in opened.state.points.values() if opened.card.within_limits(p)]
    assert within == [p for p in opened.state.points.values() if p.readings["weight_bytes"][0] <= 5000]
    assert within


def test_passwords_of_urls_are_hidden_wherever_they_are() -> None:
    plain = {"storage": "postgresql://me:se:cret@host/db", "list": ["https://a:b@c/d", 3], "text": "x=mysql://u:p@h y"}
    assert without_passwords(plain) == {
        "storage": "postgresql://me:***@host/db", "list": ["https://a:***@c/d", 3], "text": "x=mysql://u:***@h y",
    }  # fmt: skip
    assert without_passwords("http://127.0.0.1:5000/#/a@b") == "http://127.0.0.1:5000/#/a@b"


def test_the_card_of_an_older_study_has_qualities_to_maximise(ran) -> None:
    opened = open_run(ran)
    kept = json.loads(json.dumps(opened.study.user_attrs[CARD]))
    for meter in kept["meters"]:
        del meter["kind"]

    class Older:
        study_name, user_attrs = "older", {CARD: kept}

    read = StudyCard.read(Older())
    assert {(meter.kind, meter.direction) for meter in read.meters} == {("cost", "minimize"), ("quality", "maximize")}
    assert "cross_entropy" in {meter.name for meter in opened.card.qualities}
    assert {meter.name: meter.direction for meter in opened.card.meters}["cross_entropy"] == "minimize"
