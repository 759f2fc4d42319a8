"""TableCSV: against scikit-learn, on small tables like Titanic's, the penguins' and iris."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import flaxzoo as fz
from flaxzoo.data.table_preparation import TablePreparation
from flaxzoo.data.tables import TableCSV
from flaxzoo.errors import ArgumentError, DataError

TITANIC = """\
Survived,Pclass,Name,Sex,Age,Fare,Embarked
0,3,"Braun, Mr. O",male,22,7.25,S
1,1,"Cumming, Mrs. J",female,38,71.2833,C
1,3,"Heik, Miss. L",female,,7.925,S
1,1,"Futter, Mrs. H",female,35,53.1,
0,3,"Allan, Mr. W",male,35,8.05,S
0,3,"Moran, Mr. J",male,,8.4583,Q
0,1,"Carthy, Mr. T",male,54,51.8625,S
0,3,"Palson, Master. G",male,2,21.075,S
1,3,"Johns, Mrs. O",female,27,11.1333,S
1,2,"Nasser, Mrs. N",female,14,30.0708,C
"""


@pytest.fixture
def titanic(tmp_path):
    file = tmp_path / "titanic.csv"
    file.write_text(TITANIC, "utf-8")
    return file


def penguins(n=60, seed=0):
    generator = np.random.default_rng(seed)
    species = np.repeat(["Adelie", "Chinstrap", "Gentoo"], n // 3)
    means = {"Adelie": (38.8, 3700.0), "Chinstrap": (48.8, 3730.0), "Gentoo": (47.5, 5076.0)}
    frame = pd.DataFrame(
        {
            "species": species,
            "island": generator.choice(["Biscoe", "Dream", "Torgersen"], n),
            "bill_length_mm": [means[s][0] + generator.normal() for s in species],
            "body_mass_g": [means[s][1] + 100 * generator.normal() for s in species],
            "sex": generator.choice(["male", "female"], n),
        }
    )
    frame.loc[3, "bill_length_mm"] = np.nan
    frame.loc[[5, 40], "sex"] = None
    return frame


def small(**columns):
    rows = len(next(iter(columns.values())))
    return {**columns, "y": ["a", "b"] * (rows // 2) + ["a"] * (rows % 2)}


def whole(table, **options):
    """Features of a table without a validation part, by name."""
    made = TableCSV(table, options.pop("target", "y"), validation_fraction=0, **options)
    return dict(zip(made.feature_names, made.train[0].T, strict=True)), made


def test_a_table_like_titanic(titanic):
    table = TableCSV(
        titanic, "Survived", exclude=["Name"], categorical=["Pclass"], validation_fraction=4
    )
    assert table.task == "classification"
    assert table.class_names == ("0", "1")
    # The one passenger of the second class is held out, as is the one from Q.
    assert table.feature_names == (
        *("Pclass=1", "Pclass=3", "Sex=female", "Sex=male", "Age", "Fare"),
        *("Embarked=C", "Embarked=S", "Embarked=(missing)"),
    )
    (x, y), (val_x, val_y) = table.split()
    assert (x.shape, val_x.shape) == ((6, len(table.feature_names)), (4, len(table.feature_names)))
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    # Five of each: stratified, both parts have as many of one as of the other.
    assert sorted(y.tolist()) == [0, 0, 0, 1, 1, 1]
    assert sorted(val_y.tolist()) == [0, 0, 1, 1]
    age = x[:, table.feature_names.index("Age")]
    assert abs(age.mean()) < 1e-6
    assert abs(age.std() - 1) < 1e-6
    assert "TableCSV('Survived', classification: 6 rows to train and 4" in repr(table)


@pytest.mark.parametrize("scaling", ["standard", "minmax", "none"])
@pytest.mark.parametrize("missing", ["mean", "median", "most_frequent", "indicator"])
def test_numbers_and_categories_are_scikit_learn_s(scaling, missing):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

    frame = penguins()
    frame["body_mass_g"] = frame["body_mass_g"].round(-2)
    frame.loc[[0, 17, 33], "body_mass_g"] = np.nan
    table = TableCSV(
        frame, "species", scaling=scaling, missing=missing, validation_fraction=0.3, seed=4
    )
    scaler = {"standard": StandardScaler(), "minmax": MinMaxScaler(), "none": "passthrough"}
    strategy = "mean" if missing == "indicator" else missing
    numeric, texts = ["bill_length_mm", "body_mass_g"], ["island", "sex"]
    fill = (
        SimpleImputer(strategy="most_frequent")
        if missing == "most_frequent"
        else SimpleImputer(strategy="constant", fill_value="(missing)")
    )
    reference = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(strategy=strategy), scaler[scaling]), numeric),
            ("c", make_pipeline(fill, OneHotEncoder(handle_unknown="ignore")), texts),
        ],
        sparse_threshold=0,
    )
    index = fz.data.train_test_split(
        np.arange(60), 0.3, seed=4, stratify=pd.factorize(frame["species"], sort=True)[0]
    )
    plain = frame.astype(dict.fromkeys(texts, object))
    plain[texts] = plain[texts].where(plain[texts].notna(), np.nan)
    fitted = reference.fit(plain.iloc[index[0]])
    for rows, (features, labels) in zip(index, table.split(), strict=True):
        wanted = fitted.transform(plain.iloc[rows])
        encoder = fitted.named_transformers_["c"][1]
        names = numeric + [
            f"{name}={value}"
            for name, values in zip(texts, encoder.categories_, strict=True)
            for value in values
        ]
        kept = {name: features[:, i] for i, name in enumerate(table.feature_names)}
        for indicator in [name for name in kept if name in ("bill_length_mm(missing)",)]:
            np.testing.assert_array_equal(
                kept[indicator], frame["bill_length_mm"].iloc[rows].isna()
            )
        assert {name for name in kept if not name.endswith("g(missing)")} >= set(names)
        for name, column in zip(names, wanted.T, strict=True):
            np.testing.assert_allclose(kept[name], column.astype(np.float64), rtol=1e-5, atol=1e-6)
        species = frame["species"].iloc[rows].to_numpy()
        np.testing.assert_array_equal(np.array(table.class_names)[labels], species)


def test_trains_on_penguins_and_predicts_new_ones(tmp_path):
    table = TableCSV(penguins(120), "species", seed=1)
    model = fz.models.get("mlp", num_classes=3, input_shape=(len(table.feature_names),))
    trainer = fz.Trainer(model, metrics=["accuracy"], learning_rate=0.02)
    history = trainer.fit(
        table.train, validation_data=table.validation, epochs=8, batch_size=16, progress=False
    )
    assert history["val_accuracy"][-1] > 0.9
    table.save(tmp_path / "penguins.json")
    preparation = TablePreparation.load(tmp_path / "penguins.json")
    new = {"island": ["Atlantis"], "bill_length_mm": [47.0], "body_mass_g": [5100], "sex": ["male"]}
    assert preparation.inverse_target(trainer.predict(preparation.transform(new))) == ["Gentoo"]


def test_the_validation_part_tells_nothing():
    frame = penguins()
    held_out = TableCSV(frame, "species").validation[0]
    rows = fz.data.train_test_split(
        np.arange(60), 0.2, stratify=pd.factorize(frame["species"], sort=True)[0]
    )[1]
    changed = frame.copy()
    changed.loc[rows, "body_mass_g"] *= 100
    changed.loc[rows, "island"] = "Elsewhere"
    before, after = TableCSV(frame, "species"), TableCSV(changed, "species")
    np.testing.assert_array_equal(before.train[0], after.train[0])
    islands = [i for i, name in enumerate(after.feature_names) if name.startswith("island=")]
    assert len(islands) == 3
    assert held_out[:, islands].sum() == len(rows)
    assert not after.validation[0][:, islands].any()


def test_integer_encoding():
    features, table = whole(
        small(c=["x", "z", "x", "y", None]), encoding="integer", scaling="standard"
    )
    np.testing.assert_array_equal(features["c"], [1, 3, 1, 2, 4])
    assert table.preparation.categories == {"c": ("x", "y", "z", "(missing)")}
    made = table.transform({"c": ["unheard-of", "z", None]})
    np.testing.assert_array_equal(made, [[0], [3], [4]])


def test_missing_numbers():
    column = [1.0, np.nan, 3.0, 3.0, 5.0, np.nan]
    for missing, fill in (("mean", 3.0), ("median", 3.0), ("most_frequent", 3.0)):
        features, _ = whole(small(x=column), scaling="none", missing=missing)
        np.testing.assert_array_equal(features["x"], [1, fill, 3, 3, 5, fill])
    features, table = whole(small(x=column, z=range(6)), scaling="none", missing="indicator")
    assert table.feature_names == ("x", "x(missing)", "z")
    np.testing.assert_array_equal(features["x(missing)"], [0, 1, 0, 0, 0, 1])
    # Only what training had missing has a feature for it; elsewhere the mean has to do.
    np.testing.assert_array_equal(table.transform({"x": [9], "z": [None]}), [[9, 0, 2.5]])
    with pytest.raises(DataError, match=r"'x' lacks 2 of 6 values \(first in row 1, from 0\)"):
        whole(small(x=column), missing="error")
    _, strict = whole(small(x=range(6)), missing="error")
    with pytest.raises(DataError, match="'x' lacks 1 of 2 values"):
        strict.transform({"x": [1, None]})


def test_the_most_frequent_fills_categories():
    features, table = whole(small(c=["p", "q", "q", None]), missing="most_frequent")
    assert table.feature_names == ("c=p", "c=q")
    np.testing.assert_array_equal(features["c=q"], [0, 1, 1, 1])
    with pytest.raises(DataError, match="'c' lacks 1 of 4"):
        whole(small(c=["p", "q", "q", None]), missing="error")


def test_codes_read_alike_as_ints_and_floats(tmp_path):
    _, table = whole(small(code=[1, 2, 10, 2]), categorical=["code"])
    assert table.feature_names == ("code=1", "code=2", "code=10")
    # A gap in the column makes floats of the others.
    np.testing.assert_array_equal(table.transform({"code": [10.0, np.nan]}), [[0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(table.transform({"code": ["2"]}), [[0, 1, 0]])


def test_bools_and_nullable_columns_are_numbers():
    features, _ = whole(
        small(
            flag=[True, False, True, True],
            count=pd.array([1, None, 3, 4], dtype="Int64"),
            kind=pd.Categorical(["u", "v", "u", "u"]),
        ),
        scaling="none",
        missing="median",
    )
    np.testing.assert_array_equal(features["flag"], [1, 0, 1, 1])
    np.testing.assert_array_equal(features["count"], [1, 3, 3, 4])
    np.testing.assert_array_equal(features["kind=v"], [0, 1, 0, 0])


def test_text_that_is_to_be_numeric():
    table = {"x": ["1", " 2.5", None, "4"], "y": list("abab")}
    features, _ = whole(table, numeric=["x"], scaling="none")
    np.testing.assert_array_equal(features["x"], [1, 2.5, 2.5, 4])


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"] * 15, "classification"),
        ([True, False] * 15, "classification"),
        ([0, 1] * 15, "classification"),
        ([3.0, 5.0] * 15, "classification"),
        ([0.5, 1.0] * 15, "regression"),
        (list(range(30)), "regression"),
    ],
    ids=str,
)
def test_the_task_is_found(values, task):
    made = TableCSV({"x": range(30), "y": values}, "y")
    assert made.task == task
    assert bool(made.class_names) == (task == "classification")


def test_regression():
    x = np.arange(50.0)
    frame = pd.DataFrame({"x": x, "price": 3 * x + 7})
    plain = TableCSV(frame, "price")
    assert plain.train[1].shape == (40, 1)
    assert plain.train[1].dtype == np.float32
    held_out = fz.data.train_test_split(frame["price"].to_numpy(), 0.2)[1]
    np.testing.assert_allclose(plain.validation[1][:, 0], held_out)
    scaled = TableCSV(frame, "price", scale_target=True)
    assert abs(scaled.train[1].mean()) < 1e-6
    assert abs(scaled.train[1].std() - 1) < 1e-6
    np.testing.assert_allclose(scaled.inverse_target(scaled.validation[1]), held_out, rtol=1e-6)
    model = fz.models.get("mlp", num_classes=1, input_shape=(1,))
    trainer = fz.Trainer(model, loss="mean_squared_error", learning_rate=0.02)
    history = trainer.fit(scaled.train, epochs=30, batch_size=8, progress=False)
    assert history["loss"][-1] < 0.05
    few = TableCSV({"x": range(8), "y": [1, 2, 1, 2, 1, 2, 1, 2]}, "y", task="regression")
    assert few.train[1].dtype == np.float32


def test_classes_sort_by_value_and_keep_their_names():
    made = TableCSV({"x": range(6), "y": [10, 2, 10, 2, 1, 1]}, "y", validation_fraction=0)
    assert made.class_names == ("1", "2", "10")
    np.testing.assert_array_equal(made.train[1], [2, 1, 2, 1, 0, 0])
    assert made.validation is None
    np.testing.assert_array_equal(
        made.inverse_target([[0.1, 2.0, 0.3], [3.0, 0.2, 0.1]]), ["2", "1"]
    )
    with pytest.raises(DataError, match="predictions holds NaN in row 0"):
        made.inverse_target([[0.1, np.nan, 0.3]])


def test_another_table_has_the_same_preparation(tmp_path):
    frame = penguins()
    table = TableCSV(frame, "species")
    frame.to_csv(tmp_path / "test.csv", index=False)
    features, labels = table.arrays(tmp_path / "test.csv")
    np.testing.assert_array_equal(features, table.transform(frame))
    np.testing.assert_array_equal(np.array(table.class_names)[labels], frame["species"])
    # Order and further columns do not matter.
    shuffled = frame[frame.columns[::-1]].assign(extra=1)
    np.testing.assert_array_equal(table.transform(shuffled), features)


@pytest.mark.parametrize("missing", ["indicator", "most_frequent"])
@pytest.mark.parametrize("encoding", ["onehot", "integer"])
def test_saved_and_loaded(tmp_path, missing, encoding):
    frame = penguins()
    table = TableCSV(frame, "species", missing=missing, encoding=encoding)
    file = tmp_path / "deep" / "table.json"
    table.save(file)
    assert [path.name for path in file.parent.iterdir()] == ["table.json"]
    loaded = TablePreparation.load(file)
    assert loaded == table.preparation
    for ours, theirs in zip(loaded.arrays(frame), table.arrays(frame), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "cannot be read"),
        ({"format": "flaxzoo.text_vectorizer"}, "holds no table preparation"),
        ({"columns": [{"kind": "lost"}]}, "not understood"),
        ({"target": {"task": 3}}, "not understood"),
    ],
)
def test_damaged_files(tmp_path, change, message):
    file = tmp_path / "table.json"
    if change is not None:
        TableCSV(penguins(), "species").save(file)
        document = {**json.loads(file.read_text()), **change}
        del document["document_sha256"]
        file.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as caught:
        TablePreparation.load(file)
    assert str(file) in str(caught.value)


def test_the_file_s_own_form(tmp_path):
    file = tmp_path / "semicolons.csv"
    file.write_bytes("\ufeffx;größe;y\n1,5;?;a\n2,5;3;b\n4,0;5;a\n".encode())
    options = {"sep": ";", "decimal": ",", "na_values": ["?"]}
    features, table = whole(file, read_options=options, scaling="none")
    assert table.feature_names == ("x", "größe")
    np.testing.assert_array_equal(features["x"], [1.5, 2.5, 4])
    np.testing.assert_array_equal(features["größe"], [4, 3, 5])


def test_only_the_columns_that_are_needed_are_read(tmp_path, monkeypatch):
    file = tmp_path / "wide.csv"
    file.write_text("a,b,c,y\n1,2,3,u\n4,5,6,v\n")
    seen = []
    read = pd.read_csv

    def spy(*arguments, **options):
        seen.append(options.get("usecols"))
        return read(*arguments, **options)

    monkeypatch.setattr(pd, "read_csv", spy)
    made = TableCSV(file, "y", features=["c", "a"], validation_fraction=0, scaling="none")
    np.testing.assert_array_equal(made.train[0], [[3, 1], [6, 4]])
    assert seen[-1] == ["c", "a", "y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("x,y\n", "has no rows"),
        ("x,x,y\n1,2,a\n3,4,b\n", "has 2 columns named 'x'"),
        ('x,y\n1,"a\n', "cannot be read as CSV"),
        ("x,y\n1,a,7\n2,b,8\n", "Expected 2 fields in line 2, saw 3"),
        (",x,y\n0,1,a\n1,2,b\n2,3,a\n", r"'Unnamed: 0' has no name.*exclude=\['Unnamed: 0'\]"),
        ("z,w\n1,a\n", "has no column 'y'.*It has z, w"),
    ],
)
def test_files_at_fault(tmp_path, content, message):
    file = tmp_path / "table.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        TableCSV(file, "y")


def test_absent_and_undecodable_files(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        TableCSV(tmp_path / "absent.csv", "y")
    (tmp_path / "latin.csv").write_bytes(b"x,y\n\xe9,a\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        TableCSV(tmp_path / "latin.csv", "y")
    with pytest.raises(DataError, match="got int"):
        TableCSV(7, "y")
    with pytest.raises(DataError, match="do not fit together"):
        TableCSV({"x": [1, 2], "y": ["a"]}, "y")


ROWS = small(x=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], c=list("pqpqpq"))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (ROWS, {"target": "Y_"}, "no column 'Y_'"),
        (ROWS, {"features": ["xx", "c"]}, "no column 'xx'"),
        (ROWS, {"features": ["x", "y"]}, "'y' is among the features"),
        (ROWS, {"features": ["x", "x"]}, "features has 'x' 2 times"),
        (ROWS, {"features": "x"}, "features must be a list"),
        (ROWS, {"exclude": ["x", "c"]}, "there are no features"),
        (ROWS, {"exclude": ["z"]}, "no column 'z'"),
        (ROWS, {"numeric": ["c"]}, r"'c' is numeric, but row 0 \(from 0\) holds 'p' \(6 of 6"),
        (ROWS, {"features": ["x"], "numeric": ["c"]}, "no|not among the features"),
        (ROWS, {"numeric": ["x"], "categorical": ["x"]}, "as numeric and as categorical"),
        (ROWS, {"scale_target": True}, "scale_target is for regression"),
        (ROWS, {"target": "x", "task": "regression", "stratify": True}, "stratify is for"),
        (ROWS, {"validation_fraction": 1.5}, "test_size must be a fraction"),
        (ROWS, {"max_categories": 1}, "max_categories must be an int of at least 2"),
        (small(x=[1.0, np.inf, 3.0, 4.0]), {}, r"'x' holds inf in row 1"),
        (small(x=[2, 2, 2, 2]), {}, r"'x' is constant in the training part \(always 2\)"),
        (small(x=list("pppp")), {}, r"'x' is constant.*always 'p'"),
        (small(x=[None] * 4), {}, "'x' has no value"),
        (small(x=[np.nan] * 4), {}, "'x' has no value"),
        (small(x=pd.to_datetime(["2024-01-01"] * 4)), {"numeric": ["x"]}, "days since a date"),
        (small(x=[f"row {i}" for i in range(101)]), {}, "101 categories in 101 rows"),
        (
            small(x=[*map(str, range(120)), "n/k"]),
            {},
            "numbers, but not 'n/k'.*na_values",
        ),
        ({"x": range(4), "y": ["a", "b", None, "a"]}, {}, r"missing in 1 of 4 rows.*row 2"),
        ({"x": range(4), "y": [0.5, 1.5, None, 2.5]}, {}, r"missing in 1 of 4 rows"),
        ({"x": range(4), "y": ["a"] * 4}, {}, "one class, 'a'"),
        ({"x": range(4), "y": [1.5] * 4}, {}, "constant in the training part: 1.5"),
        (
            {"x": range(8), "y": list("aaaaaaab")},
            {"validation_fraction": 7, "stratify": True},
            "no row of class 'b'",
        ),
    ],
)
def test_tables_at_fault(table, options, message):
    options = {"validation_fraction": 0, **options}
    with pytest.raises((DataError, ArgumentError), match=message):
        TableCSV(table, options.pop("target", "y"), **options)


def test_the_closest_names_are_shown(titanic):
    with pytest.raises(DataError, match=r"no column 'survived'\. Did you mean 'Survived'\?"):
        TableCSV(titanic, "survived")
    table = TableCSV(titanic, "Survived", features=["Age", "Fare"])
    with pytest.raises(DataError, match=r"no column 'Age'\. Did you mean 'age'\?"):
        table.transform({"age": [3], "Fare": [1]})


@pytest.mark.parametrize(
    ("option", "value"),
    [("scaling", "standart"), ("missing", "mode"), ("encoding", "one_hot"), ("task", "classes")],
)
def test_unknown_settings(option, value):
    with pytest.raises(ArgumentError, match=f"{option} must be one of .*, got '{value}'"):
        TableCSV(ROWS, "y", **{option: value})


def test_predictions_and_targets_at_fault():
    made = TableCSV(ROWS, "y", validation_fraction=0)
    with pytest.raises(DataError, match=r"must be \[N, 2\], got \[3\]"):
        made.inverse_target([0, 1, 1])
    with pytest.raises(DataError, match="'c' in row 1.*none of the classes a, b"):
        made.arrays({**ROWS, "y": list("acabab")})


# --- files of one form, read alike ---------------------------------------------------------------

MARKED = "c;x;y\na;1,5;u\n?;2,5;v\nb;?;u\na;4,0;v\n"


def form(**more):
    return {"sep": ";", "decimal": ",", "na_values": ["?"], **more}


@pytest.mark.parametrize("saved", [False, True])
def test_later_files_are_read_with_the_same_options(tmp_path, saved):
    file = tmp_path / "marked.csv"
    file.write_text(MARKED)
    made = TableCSV(file, "y", validation_fraction=0, read_options=form(nrows=4))
    prepared = made.preparation
    if saved:
        made.save(tmp_path / "table.json")
        prepared = TablePreparation.load(tmp_path / "table.json")
        assert prepared == made.preparation
    assert prepared.feature_names == ("c=a", "c=b", "c=(missing)", "x")
    np.testing.assert_array_equal(prepared.transform(file), made.train[0])
    np.testing.assert_array_equal(prepared.transform_target(file), made.train[1])
    for ours, theirs in zip(prepared.arrays(file), made.train, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # A longer file is read to its end, and one of another form with options of its own.
    file.write_text(MARKED + "b;1,5;u\n")
    assert len(prepared.transform(file)) == 5
    file.write_text("y,c,x\nu,a,1.5\n")
    np.testing.assert_array_equal(prepared.transform(file, read_options={}), made.train[0][:1])
    np.testing.assert_array_equal(prepared.arrays(file, read_options={})[1], [0])
    np.testing.assert_array_equal(prepared.transform_target(file, read_options={}), [0])


def test_a_file_to_predict_may_lack_the_target(tmp_path):
    (tmp_path / "a.csv").write_text("x,note,y\n1,p,u\n2,q,v\n")
    made = TableCSV(
        tmp_path / "a.csv", "y", validation_fraction=0, read_options={"usecols": ["x", "y"]}
    )
    assert made.feature_names == ("x",)
    (tmp_path / "b.csv").write_text("note,x\np,2\n")
    np.testing.assert_array_equal(made.transform(tmp_path / "b.csv"), [[1]])


def test_types_are_saved_and_functions_are_asked_for(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("code,x,y\n01,1 kg,u\n02,2 kg,v\n")
    options = {
        "dtype": {"code": str, "z": np.float32, "w": np.dtype("int8")},
        "na_values": {"x": ("?", np.int64(7)), "y": {"-"}},
        "converters": {"x": lambda text: float(text.split()[0])},
    }
    made = TableCSV(file, "y", validation_fraction=0, read_options=options)
    assert made.feature_names == ("code=01", "code=02", "x")
    np.testing.assert_array_equal(made.transform(file), made.train[0])
    for _ in range(2):  # The second time, what was loaded is saved.
        made.preparation.save(tmp_path / "table.json")
        loaded = TablePreparation.load(tmp_path / "table.json")
        assert loaded.read_options == {
            "dtype": {"code": "str", "z": "float32", "w": "int8"},
            "na_values": {"x": ["?", 7], "y": ["-"]},
        }
        with pytest.raises(DataError, match=r"a\.csv needs read_options=: 'converters' of the"):
            loaded.transform(file)
        np.testing.assert_array_equal(loaded.transform(file, read_options=options), made.train[0])
        np.testing.assert_array_equal(loaded.transform({"code": ["02"], "x": [2]}), [[0, 1, 1]])
        made.preparation = loaded


def test_preparations_of_earlier_versions_load(tmp_path):
    made = TableCSV(penguins(), "species")
    made.save(tmp_path / "new.json")
    document = json.loads((tmp_path / "new.json").read_text())
    del document["read_options"], document["unsaved"], document["target"]["text"]
    del document["document_sha256"]
    for each in document["columns"]:
        each.pop("text", None)
    (tmp_path / "old.json").write_text(json.dumps(document))
    old = TablePreparation.load(tmp_path / "old.json")
    for ours, theirs in zip(old.arrays(penguins()), made.arrays(penguins()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_codes_stay_text_in_files_that_hold_no_words(tmp_path):
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("code,kind,y\n" + "01,007,00\n02,x,01\nX,1.0,00\n,007,Z\n" * 2)
    made = TableCSV(train, "y", validation_fraction=0)
    assert made.feature_names[:3] == ("code=01", "code=02", "code=X")
    assert made.class_names == ("00", "01", "Z")
    test.write_text("code,kind,y\n01,7,00\n02,1.0,01\n,007,01\n")
    made.save(tmp_path / "table.json")
    for prepared in (made.preparation, TablePreparation.load(tmp_path / "table.json")):
        features, labels = prepared.arrays(test)
        by_name = dict(zip(prepared.feature_names, features.T, strict=True))
        np.testing.assert_array_equal(by_name["code=01"], [1, 0, 0])
        np.testing.assert_array_equal(by_name["code=02"], [0, 1, 0])
        np.testing.assert_array_equal(by_name["code=(missing)"], [0, 0, 1])
        np.testing.assert_array_equal(by_name["kind=1.0"], [0, 1, 0])
        np.testing.assert_array_equal(by_name["kind=007"], [0, 0, 1])
        np.testing.assert_array_equal(labels, [0, 1, 1])
    # Whoever says what a column is decides.
    numbers = made.transform(test, read_options={"dtype": {"code": float}})
    assert not numbers[:2, :3].any()


def test_numbers_that_are_categories_meet_text(tmp_path):
    (tmp_path / "train.csv").write_text("code,y\n01,u\n02,v\n10,u\n")
    made = TableCSV(tmp_path / "train.csv", "y", categorical=["code"], validation_fraction=0)
    assert made.feature_names == ("code=1", "code=2", "code=10")
    (tmp_path / "test.csv").write_text("code,y\n02,u\nX,v\n10.0,u\n")
    np.testing.assert_array_equal(
        made.transform(tmp_path / "test.csv"), [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    )


def test_bools_with_gaps_are_not_taken_for_text(tmp_path):
    (tmp_path / "train.csv").write_text("b,y\nTrue,u\nFalse,v\n,u\n")
    made = TableCSV(tmp_path / "train.csv", "y", validation_fraction=0)
    assert made.feature_names == ("b=False", "b=True", "b=(missing)")
    (tmp_path / "test.csv").write_text("b,y\ntrue,u\nFALSE,v\n")
    np.testing.assert_array_equal(made.transform(tmp_path / "test.csv"), [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("a|b|y\n1|3|u\n2|4|v\n", {"delimiter": "|"}),
        ("'a'; 'b;c'; y\n1; 3; u\n2; 4; v\n", {"sep": ";", "quotechar": "'"}),
        ("a, b, y\n1, 3, u\n2, 4, v\n", {"skipinitialspace": True}),
        ("a::b::y\n1::3::u\n2::4::v\n", {"sep": "::"}),
        ("a;b;y\n1;3;u\n2;4;v\n", {"sep": None}),
        ("a  b y\n1 3  u\n2 4 v\n", {"sep": r"\s+"}),
        ("# by, me, and, you\na,b,y\n1,3,u # the first\n2,4,v\n", {"comment": "#"}),
        ("made,by\nme\na,b,y\n1,3,u\n2,4,v\n", {"skiprows": 2}),
        ("a,b,y\n1,3,u\n2,4,v\ntotal\n", {"skipfooter": 1}),
        ("a,b,y\n1,3,u\n2,4,v\n", {"engine": "python", "header": 0}),
        ("a,b,y\n1,3,u,\n2,4,v,\n", {"index_col": False}),
        ("1,3,u\n2,4,v\n", {"header": None, "names": ["a", "b", "y"]}),
    ],
)
def test_the_header_is_read_as_the_rows_are(tmp_path, content, options):
    file = tmp_path / "form.csv"
    file.write_text(content)
    name = "a"
    if "quotechar" in options:
        options = {**options, "skipinitialspace": True}
    made = TableCSV(
        file, "y", features=[name], validation_fraction=0, scaling="none", read_options=options
    )
    np.testing.assert_array_equal(made.train[0], [[1], [2]])
    np.testing.assert_array_equal(made.transform(file), [[1], [2]])
    with pytest.raises(DataError, match=r"no column 'A'\. Did you mean 'a'\?"):
        TableCSV(file, "y", features=["A"], read_options=options)


def test_a_column_may_be_called_na(tmp_path):
    (tmp_path / "a.csv").write_text("NA,y\n1,u\n2,v\n")
    made = TableCSV(tmp_path / "a.csv", "y", features=["NA"], validation_fraction=0)
    assert made.feature_names == ("NA",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sepp": ";"}, "unexpected keyword argument 'sepp'"),
        ({"chunksize": 10}, "as a whole, without 'chunksize'"),
        ({"usecols": ["x", "z"]}, "columns expected but not found"),
    ],
)
def test_read_options_at_fault(tmp_path, options, message):
    (tmp_path / "a.csv").write_text("x,y\n1,u\n2,v\n")
    with pytest.raises(DataError, match=message):
        TableCSV(tmp_path / "a.csv", "y", read_options=options)


def test_exclude_and_features_together(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,y\n1,3,u\n2,4,v\n")
    options = {"features": ["b"], "validation_fraction": 0}
    for table in (tmp_path / "a.csv", {"a": [1, 2], "b": [3, 4], "y": ["u", "v"]}):
        assert TableCSV(table, "y", exclude=["a"], **options).feature_names == ("b",)
        with pytest.raises(DataError, match=r"no column 'bb'\. Did you mean 'b'\?"):
            TableCSV(table, "y", exclude=["bb"], **options)
        with pytest.raises(DataError, match="numeric has 'a', which is not among the features"):
            TableCSV(table, "y", numeric=["a"], **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["3.5", "?", "4.5", "5"], r"but not '\?': read_options=\{'na_values': \['\?'\]\} makes"),
        (["3,5", "4,25", "5,5", "-1,0"], r"comma, such as '-1,0': read_options=\{'decimal': ','\}"),
        (
            ["1,234", "12,345.5", "7", "8"],
            r"read_options=\{'thousands': ','\} reads them from a file",
        ),
        (["3,5", "-", "4,25", "5,25"], r"not '-': .*'decimal': ',', 'na_values': \['-'\]"),
        (
            ["3.5 %", "$12", "5", "1 200"],
            r"with a mark, such as .*'converters': \{column: function",
        ),
        (["3.5", "4.5", "5.5", "6.5"], "most of its values are numbers: numeric= reads them"),
    ],
)
def test_columns_of_numbers_are_no_categories_in_silence(values, message):
    with pytest.warns(UserWarning, match=rf"column 'x' becomes a feature for each.*{message}.*cat"):
        whole(small(x=values))
    rows = {"y": values, "x": range(4)}
    with pytest.warns(UserWarning, match=rf"target 'y' becomes a class for each .*{message}.*task"):
        TableCSV(rows, "y", validation_fraction=0)


@pytest.mark.filterwarnings("error")
def test_names_are_no_numbers():
    for values in (["01", "02", "X", "03"], ["1", "a", "b", "c"], ["a", "b", "c,d", "1,5 kg"]):
        whole(small(x=values))
    whole(small(x=["0", "1", "2", "3+"]), categorical=["x"])
    rows = {"x": range(4), "y": ["1", "2", "3", "?"]}
    TableCSV(rows, "y", task="classification", validation_fraction=0)


def test_the_options_that_are_named_read_the_file(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("x;y\n3,5;a\n?;b\n4,25;a\n5,0;b\n")
    options = {"sep": ";"}
    with pytest.warns(UserWarning, match="'decimal'"):
        TableCSV(file, "y", validation_fraction=0, read_options=options)
    options |= {"decimal": ",", "na_values": ["?"]}
    table = TableCSV(file, "y", validation_fraction=0, scaling="none", read_options=options)
    np.testing.assert_allclose(table.train[0][:, 0], [3.5, 4.25, 4.25, 5])
    for value, option in (
        ("4,5", "'decimal': ','"),
        ("1,234", "'thousands'"),
        ("?", "na_val"),
    ):
        with pytest.raises(DataError, match=rf"row 1 .*{option}"):
            table.transform({"x": [1.0, value]})


def test_forms_of_a_letter_are_one_name(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    rows = {"x": [composed, decomposed, "tea", "tea"], "y": ["a", decomposed, composed, "a"]}
    table = TableCSV(rows, "y", validation_fraction=0)
    assert table.class_names == ("a", composed)
    assert table.feature_names == (f"x={composed}", "x=tea")
    table.save(tmp_path / "t.json")
    for form in (composed, decomposed):
        loaded = TablePreparation.load(tmp_path / "t.json")
        assert loaded.transform({"x": [form]}).tolist() == [[1, 0]]
        assert loaded.transform_target({"y": [form]}).tolist() == [1]
