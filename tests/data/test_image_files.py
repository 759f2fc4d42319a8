from __future__ import annotations

import os
import re

import numpy as np
import pytest

from flaxzoo.data._image_files import read_table, scan_folders, scan_names
from flaxzoo.errors import ArgumentError, DataError, UnknownNameError


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"not read here")
    return root


def table(path, text, **options):
    path.write_text(text, options.pop("encoding", "utf-8"))
    return read(path, **options)


def read(source, root=None, **options):
    defaults = {
        "file_column": "file",
        "label_column": "label",
        "class_names": None,
        "delimiter": ",",
    }
    return read_table(source, root, **{**defaults, **options})


# --- folders -----------------------------------------------------------------------------------


def test_folders_and_files_are_sorted_as_text(tmp_path):
    make(tmp_path, "b/10.jpg", "b/9.PNG", "a/z/1.webp", "a/B.gif", "a/a.jpeg", "Z/0.bmp")
    files, labels, names = scan_folders(tmp_path)
    assert names == ["Z", "a", "b"]
    inside = [os.path.relpath(file, tmp_path).replace(os.sep, "/") for file in files]
    assert inside == ["Z/0.bmp", "a/B.gif", "a/a.jpeg", "a/z/1.webp", "b/10.jpg", "b/9.PNG"]
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert scan_folders(str(tmp_path))[0] == files


def test_hidden_and_other_files_are_passed_over(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg", ".git/1.jpg", "a/.x.jpg", "a/.hidden/2.jpg")
    make(tmp_path, "a/notes.txt", "b/Thumbs.db", "read.me")
    files, labels, names = scan_folders(tmp_path)
    assert names == ["a", "b"]
    assert labels.tolist() == [0, 1]
    assert all(file.endswith("1.jpg") for file in files)


def test_links_are_followed_and_circles_end(tmp_path):
    make(tmp_path / "store", "x.jpg", "deep/y.jpg")
    root = make(tmp_path / "root", "a/1.jpg")
    (root / "b").symlink_to(tmp_path / "store", target_is_directory=True)
    (root / "a" / "2.jpg").symlink_to(tmp_path / "store" / "x.jpg")
    (tmp_path / "store" / "deep" / "again").symlink_to(tmp_path / "store")
    with pytest.warns(UserWarning, match=r"1 pictures into two classes .*2\.jpg and .*x\.jpg"):
        files, _, names = scan_folders(root)
    assert names == ["a", "b"]
    assert [os.path.relpath(file, root) for file in files] == [
        os.path.join(*parts)
        for parts in (("a", "1.jpg"), ("a", "2.jpg"), ("b", "deep", "y.jpg"), ("b", "x.jpg"))
    ]


@pytest.mark.filterwarnings("error")
def test_a_link_upwards_gives_no_picture_two_labels(tmp_path):
    root = make(tmp_path / "root", "a/1.jpg", "a/deep/2.jpg", "b/3.jpg")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "deep" / "top").symlink_to(tmp_path, target_is_directory=True)
    (root / "b" / "self").symlink_to(".")
    (root / "b" / "loop").symlink_to("loop")
    (root / "c").symlink_to(root, target_is_directory=True)
    (tmp_path / "other").symlink_to(root)
    for start in (root, tmp_path / "other"):
        files, labels, names = scan_folders(start)
        assert names == ["a", "b"]
        inside = [os.path.relpath(file, start).replace(os.sep, "/") for file in files]
        assert inside == ["a/1.jpg", "a/deep/2.jpg", "b/3.jpg"]
        assert labels.tolist() == [0, 0, 1]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root, scan = make(tmp_path, "a/1.jpg", "b/closed/2.jpg"), os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"closed: cannot be read \(Permission denied\)"):
        scan_folders(root)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_forms_of_a_name_are_one_class(tmp_path):
    root = make(tmp_path, f"{COMPOSED}/1.jpg", f"{DECOMPOSED}/2.jpg", "tea/3.jpg")
    for class_names in (None, [COMPOSED, "tea"], [DECOMPOSED, "tea"]):
        files, labels, names = scan_folders(root, class_names)
        assert names == [COMPOSED, "tea"]
        assert labels.tolist() == [0, 0, 1]
        assert all(map(os.path.isfile, files))
    # A table may come from another system than the files.
    rows = {"file": [f"{DECOMPOSED}/1.jpg", f"{COMPOSED}/2.jpg", "tea/3.jpg"]}
    rows["label"] = [COMPOSED, DECOMPOSED, "tea"]
    files, labels, names = read(rows, root)
    assert all(map(os.path.isfile, files))
    assert (labels.tolist(), names) == ([0, 0, 1], [COMPOSED, "tea"])


# --- names of files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        r"([a-z]+)\.\d+\.jpg",
        r"^(cat|dog|owl)",
        re.compile(r"(.+?)\."),
        lambda path: path.name.split(".")[0],
    ],
)
def test_names_of_files_tell_the_classes(tmp_path, labels):
    root = make(tmp_path, "dog.1.jpg", "cat.0.jpg", "cat.10.jpg", "deep/owl.2.jpg", "notes.txt")
    files, numbers, names = scan_names(root, labels)
    assert [os.path.basename(file) for file in files] == [
        *("cat.0.jpg", "cat.10.jpg", "owl.2.jpg", "dog.1.jpg")
    ]
    assert names == ["cat", "dog", "owl"]
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [0, 0, 2, 1]
    assert scan_names(root, labels, ["owl", "dog", "cat"])[1].tolist() == [2, 2, 0, 1]


def test_whole_numbers_in_names_are_sorted_as_such(tmp_path):
    root = make(tmp_path, "10_a.png", "9_b.png", "2_c.png")
    assert scan_names(root, r"(\d+)_")[2] == ["2", "9", "10"]
    assert scan_names(root, lambda path: int(path.stem[:-2]))[2] == ["2", "9", "10"]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (r"(cat)\.", DataError, r"1 of 3 files have no class by labels='\(cat\).*': .*dog\.1\.jpg"),
        (lambda path: None, DataError, "3 of 3 files have no class by labels='the function'"),
        (
            lambda path: path.name[99],
            DataError,
            r"labels=<func.* fails for .*0\.jpg: IndexError",
        ),
        (r"\w+", ArgumentError, "one group, such as .* with 0; for a folder per class leave"),
        (r"(\w)(\w)", ArgumentError, "one group, .* with 2"),
        (r"(\w", ArgumentError, "is no regular expression: missing"),
        (re.compile(rb"(\w)"), ArgumentError, "one group"),
        (["cat", "dog"], ArgumentError, r"got list; ImageDataset\(files, labels, class_names\)"),
    ],
)
def test_names_at_fault(tmp_path, labels, error, message):
    root = make(tmp_path, "cat.0.jpg", "cat.1.jpg", "dog.1.jpg")
    with pytest.raises(error, match=message):
        scan_names(root, labels)


def test_more_names_at_fault(tmp_path):
    root = make(tmp_path, "cat.0.jpg", "cat.1.jpg", "dog.1.jpg")
    with pytest.raises(DataError, match=r"1 of 3 .* first is .*dog\.1\.jpg, of 'dog'.*'dogs'"):
        scan_names(root, "^(cat|dog)", ["cat", "dogs"])
    with pytest.raises(DataError, match="at least two classes, got jpg; labels= finds jpg in the"):
        scan_names(root, "(jpg)")
    with pytest.raises(DataError, match="has no image files"):
        scan_names(make(tmp_path / "none", "a.txt"), "(a)")
    with pytest.raises(DataError, match="does not exist; it must be a directory of image files"):
        scan_names(tmp_path / "absent", "(a)")
    with pytest.raises(DataError, match="labels= for classes in the file names"):
        scan_folders(make(tmp_path / "flat", "cat.0.jpg"))


def test_class_names_give_the_labels(tmp_path):
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    _, labels, names = scan_folders(tmp_path, ["b", "a"])
    assert names == ["b", "a"]
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("paths", "names", "message"),
    [
        ((), None, "has no class folders in it$"),
        (("1.jpg", "2.jpg"), None, "use ImageCSV for files with a table"),
        (("a/1.jpg",), None, "at least two classes, got a; .* has the folders a"),
        (("a/1.jpg", "b/1.txt"), None, r"class folder '.*b' has no image files \(.*\.jpg"),
        (("train/a/1.jpg", "val/a/1.jpg"), None, "holds the parts train, val, not classes"),
        (("cats/1.jpg", "dogs/1.jpg"), ["cats", "dog"], "no folder for .* 'dog'.*mean 'dogs'"),
        (("a/1.jpg", "b/1.jpg", "c/1.jpg"), ["a", "b"], "not in class_names: c"),
        (("a/1.jpg", "b/1.jpg"), ["a", "a"], "a name twice"),
        (("a/1.jpg", "b/1.jpg"), "ab", "must be a list of names"),
    ],
)
def test_folders_at_fault(tmp_path, paths, names, message):
    with pytest.raises(DataError, match=message):
        scan_folders(make(tmp_path, *paths), names)


def test_a_root_that_is_no_directory(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        scan_folders(tmp_path / "nowhere")
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(DataError, match="is a file; it must be a directory of class folders"):
        scan_folders(tmp_path / "file.zip")


def test_classes_may_be_called_train_and_test(tmp_path):
    assert scan_folders(make(tmp_path, "train/1.jpg", "test/2.jpg"))[2] == ["test", "train"]


# --- tables ------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    return make(tmp_path / "images", "1.jpg", "2.jpg", "sub/3.jpg")


def test_a_table_keeps_its_order(tmp_path, images):
    text = "label,width,file\ndog,3,2.jpg\ncat,4,sub/3.jpg\ndog,5, 1.jpg \n"
    files, labels, names = table(tmp_path / "t.csv", text, root=images)
    assert names == ["cat", "dog"]
    assert labels.tolist() == [1, 0, 1]
    assert files == [str(images / "2.jpg"), str(images / "sub" / "3.jpg"), str(images / "1.jpg")]


def test_files_are_relative_to_the_table_or_absolute(tmp_path, images):
    text = f"file;what\nimages/1.jpg;x\n{images / '2.jpg'};y\n"
    files, _, names = table(
        tmp_path / "t.csv", text, label_column="what", delimiter=";", encoding="utf-8-sig"
    )
    assert files == [str(images / "1.jpg"), str(images / "2.jpg")]
    assert names == ["x", "y"]


def test_whole_numbers_are_sorted_as_such(tmp_path, images):
    rows = {"file": ["1.jpg", "2.jpg", "sub/3.jpg"]}
    assert read({**rows, "label": [10, 9, 2]}, images)[2] == ["2", "9", "10"]
    assert read({**rows, "label": ["10", "9", "02"]}, images)[2] == ["02", "10", "9"]
    _, labels, _ = read({**rows, "label": [0, 1, 1]}, images)
    assert labels.tolist() == [0, 1, 1]
    _, labels, names = read({**rows, "label": [0, 1, 1]}, images, class_names=["1", "0"])
    assert (labels.tolist(), names) == ([1, 0, 0], ["1", "0"])


def test_a_data_frame(tmp_path, images):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"file": [images / "1.jpg", images / "2.jpg"], "label": ["a", "b"]})
    files, labels, names = read(frame[::-1])
    assert [os.path.basename(file) for file in files] == ["2.jpg", "1.jpg"]
    assert (labels.tolist(), names) == ([1, 0], ["a", "b"])
    for missing in (None, float("nan"), pandas.NA):
        frame = pandas.DataFrame({"file": ["1.jpg", "2.jpg"], "label": ["a", missing]})
        with pytest.raises(DataError, match="the DataFrame has no 'label' in row 1"):
            read(frame, images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,label\n", "has no rows"),
        ("file,label\n1.jpg,a\n2.jpg\n", r"t\.csv, line 3: 1 values for the 2 columns file, label"),
        ("file,label\n1.jpg,a\n,b\n", "has no 'file' in line 3"),
        ("file,label\n1.jpg,a\n\n2.jpg,\n", "has no 'label' in line 4"),
        ("file,label\n1.jpg,a\n./1.jpg,b\n", r"lists './1\.jpg' twice, in lines 2 and 3"),
        ("file,label\n1.jpg,a\n8.jpg,b\n9.jpg,b\n", r"2 of 3 files of .*exist: .*8\.jpg, .*9\.jpg"),
        ("file,label\n1.jpg,a\nsub,b\n", "1 of 2 files .* do not exist: .*sub$"),
        ("file,label\n1.jpg,a\n2.jpg,a\n", "at least two classes, got a"),
        ("file,label,label\n1.jpg,a,b\n", "two columns of one name"),
        ('file,label\n1.jpg,"a\n', "line 2: unexpected end of data"),
    ],
)
def test_tables_at_fault(tmp_path, images, text, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path / "t.csv", text, root=images)


def test_more_tables_at_fault(tmp_path, images):
    with pytest.raises(DataError, match=r"none\.csv: no such CSV file"):
        read(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("file,label\n1.jpg,größe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv is not UTF-8"):
        read(tmp_path / "latin.csv", images)
    with pytest.raises(DataError, match="the columns differ in length: file has 2, label has 1"):
        read({"file": ["1.jpg", "2.jpg"], "label": ["a"]}, images)
    with pytest.raises(DataError, match="must be the path of a CSV file, .* got list"):
        read([("1.jpg", "a")])
    rows = {"file": ["1.jpg", "2.jpg"], "label": ["cat", "dogs"]}
    with pytest.raises(DataError, match="1 labels .* 'dogs' in row 1. Did you mean 'dog'"):
        read(rows, images, class_names=["cat", "dog"])


def test_an_unknown_column_lists_the_columns(tmp_path, images):
    rows = {"file": ["1.jpg"], "labels": ["a"]}
    message = "label_column 'label' .* Did you mean 'labels'.* There are: 'file', 'labels'"
    with pytest.raises(UnknownNameError, match=message):
        read(rows, images)


def test_whole_numbers_of_a_float_column_are_their_own_labels(tmp_path):
    import pandas as pd

    make(tmp_path, *(f"{index}.jpg" for index in range(4)))
    files = [f"{index}.jpg" for index in range(4)]
    for values in ([10.0, 2.0, 0.0, 2.0], np.array([10, 2, 0, 2], np.float32)):
        frame = pd.DataFrame({"file": files, "label": values})
        _, labels, names = read(frame, tmp_path)
        assert names == ["0", "2", "10"]
        assert labels.tolist() == [2, 1, 0, 1]
    # Names that were given as numbers of either type mean the same.
    for given in ([10.0, 2.0, 0.0], [10, 2, 0]):
        assert read(frame, tmp_path, class_names=given)[1].tolist() == [0, 1, 2, 1]
    # In a file they are text, sorted by value all the same.
    text = "file,label\n0.jpg,10.0\n1.jpg,2.0\n2.jpg,0.0\n3.jpg,2.0\n"
    _, labels, names = table(tmp_path / "t.csv", text)
    assert names == ["0.0", "2.0", "10.0"]
    assert labels.tolist() == [2, 1, 0, 1]
    for given in ([10.0, 2.0, 0.0], ["10.0", "2.0", "0.0"]):
        assert read(tmp_path / "t.csv", class_names=given)[1].tolist() == [0, 1, 2, 1]
    # Halves stay what they are.
    halves = pd.DataFrame({"file": files, "label": [0.5, 1.0, 0.5, 1.0]})
    assert read(halves, tmp_path)[2] == ["0.5", "1"]
