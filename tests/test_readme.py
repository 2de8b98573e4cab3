"""README.md and docs/: sizes, links, images, and the files and functions that they name."""

import importlib
import json
import re
from pathlib import Path

import pytest

from nets import systems
from nets.bilayer.distil import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SYSTEMS = ("vunet", "landmarks", "bilayer", "dcign")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#([\w-]+))?\)")
IMAGES = (".png", ".gif", ".jpg")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(page):
    """(target, anchor) of every link of a page to a file of the repository."""
    found = LINK.findall(without_code(page.read_text(encoding="utf-8")))
    return [(target, anchor) for target, anchor in found if "://" not in target]


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    text = without_code(page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_readme_has_at_most_900_words():
    assert len(README.split()) <= 900


def test_the_readme_has_at_most_one_table_of_four_columns():
    tables = re.findall(r"^\|[-:| ]+\|$", README, re.MULTILINE)
    assert len(tables) <= 1
    assert all(table.count("|") - 1 <= 4 for table in tables)


def test_the_readme_has_five_recipes_and_a_python_snippet():
    recipes = README.partition("## Recipes")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*.+?```bash\n.+?```", recipes, re.DOTALL | re.MULTILINE)) == 5
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(snippet, "README.md", "exec")
    assert "import guise" in snippet


def test_the_readme_links_to_a_page_of_every_system():
    targets = {target for target, _ in links(ROOT / "README.md")}
    assert {f"docs/{system}.md" for system in SYSTEMS} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target, anchor in links(page):
        file = page.parent / target
        assert file.exists(), f"{page.name}: {target} is missing"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target} has no #{anchor}"


def test_every_image_is_shown_somewhere_and_small():
    shown = {(page.parent / target).resolve() for page in PAGES for target, _ in links(page)}
    images = [file for file in (ROOT / "docs").iterdir() if file.suffix in IMAGES]
    assert len(images) >= 5
    for image in images:
        assert image.resolve() in shown, f"{image.name}: no page shows it"
        limit = 500_000 if image.suffix == ".gif" else 300_000
        assert image.stat().st_size <= limit, f"{image.name}: more than {limit // 1000} kB"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_and_module_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    configs = {file.name for file in (ROOT / "configs").rglob("*.yaml")}
    for name in re.findall(r"--config ([\w.]+\.yaml)", text):
        assert name in configs, f"{page.name}: --config {name}"
    for name in re.findall(r"python -m (nets[\w.]*)", text):
        module = ROOT / name.replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), name
    for name in re.findall(r"`((?:nets|csrc|tests|benchmarks|configs|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name}: {name} is missing"


def test_every_function_of_the_guided_tour_is_in_its_file():
    text = " ".join((ROOT / "docs/architecture.md").read_text(encoding="utf-8").split())
    named = re.findall(r"`([\w.]+)` (?:\(|in |of )`(nets/[\w/.]+\.py)`", text)
    assert len(named) >= 15
    for name, file in named:
        code = (ROOT / file).read_text(encoding="utf-8")
        last = name.rpartition(".")[2]
        assert re.search(rf"^ *(?:def|class) {last}\b", code, re.MULTILINE), f"{file}: no {name}"


STEP_ROWS = {
    "VUNet, whole image, 128 px": "image-128",
    "VUNet, whole image, 256 px": "image-256",
    "VUNet, parts, 128 px": "parts-128",
    "VUNet, parts, 256 px": "parts-256",
    "landmarks, 30 landmarks, 128 px": "landmarks-128",
    "landmarks, 128 px": "landmarks-128",
    "the same with masks": "landmarks-128-masks",
    "head avatars, 64 px": "bilayer-64",
    "head avatars, 128 px": "bilayer-128",
    "DC-IGN, 150 px, 96 maps": "dcign-150-96",
    "DC-IGN, 150 px, 16 maps": "dcign-150-16",
}
STEP_TABLES = {  # heading in docs/performance.md -> key in the JSON
    "A training step": "step_s",
    "A forward pass": "forward_s",
    "Memory": "peak_mb_of_a_step",
}


def equal_as_written(text, value):
    """Whether a number in a text is `value`, rounded to the digits that are written."""
    decimals = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5000001 * 10**-decimals


@pytest.mark.parametrize("heading", STEP_TABLES)
def test_figures_of_steps_are_those_of_the_benchmark(heading):
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "benchmarks/results/steps-cpu.json").read_text(encoding="utf-8"))
    measured = {row["row"]: row for row in results["rows"]}
    table = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?)(?:, \d+ (?:images?|samples?))? \|(.*)\|$", table, re.MULTILINE)
    rows = [(STEP_ROWS[name], cells.split("|")) for name, cells in rows if name in STEP_ROWS]
    assert len(rows) >= 4
    for name, cells in rows:
        for way, cell in zip(("published", "fp32", "bf16"), cells, strict=True):
            if not (numbers := re.findall(r"[\d.]+", cell)):
                continue
            value = measured[name][way][STEP_TABLES[heading]]
            assert equal_as_written(numbers[0], value), f"{heading}, {name}, {way}: {value:.4g}"
            if len(numbers) == 2:
                ratio = measured[name]["published"][STEP_TABLES[heading]] / value
                assert equal_as_written(numbers[1], ratio), (
                    f"{heading}, {name}, {way}: {ratio:.3g}x"
                )


def test_figures_of_frames_are_those_of_the_benchmark():
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    page = page.partition("## Head avatars: frames and videos\n")[2].partition("\n### ")[0]
    tables = page.split("one frame at a time")[1:]
    for name, table in zip(("inference-cpu", "inference-cpu-amx"), tables, strict=True):
        report = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text("utf-8"))
        (ways,) = (row["ways"] for row in report["rows"] if row["row"] == "frame, batch 1")
        rows = re.findall(
            r"^\| (?:`(drive|Driver)`|published)(.*?) \| (.*) \|$", table, re.MULTILINE
        )
        assert len(rows) == 5
        for way, how, cells in rows:
            kind = f"{way.lower() or 'published'}{' compiled' if 'compiled' in how else ''}"
            for precision, cell in zip(("fp32", "bf16"), cells.split(" | "), strict=False):
                if numbers := re.findall(r"[\d.]+", cell):
                    value = ways[f"{kind} {precision}"]
                    assert equal_as_written(numbers[0], value["ms"]), f"{name}, {kind}"
                    assert len(numbers) == 1 or equal_as_written(
                        numbers[1], value["times_published"]
                    ), f"{name}, {kind}"


PAIRS = {  # JSON -> section of docs/real_data.md, {row: report in the JSON and its part}
    "market": ("## VUNet: another pose of a person, Market-1501", {
        "VUNet of guise": ("guise", "reference"),
        "published VUNet's own images": ("published", "reference"),
        "copy of the source": ("guise", "copy_source"),
        "mean image": ("guise", "mean_image"),
        "VUNet of guise, all 110 pairs": ("all pairs", "reference"),
        "not fitted": ("fold 1", "network"),
        "fitted": ("fold 1, fitted", "network"),
        "images of the published VUNet": ("fold 1", "reference"),
    }),
    "losses": ("## VUNet: another pose of a person, Market-1501", {
        "nothing": ("l1", "network"),
        "edge term, 0.5": ("edges", "network"),
        "features of MobileNetV2": ("mobilenet", "network"),
        "these, Gram matrices, edge term 0.15": ("all", "network"),
    }),
    "deepfashion": ("## VUNet: DeepFashion", {
        "VUNet of guise, 128 px": ("guise", "network"),
        "128 px, fitted": ("guise, fitted", "network"),
        "VUNet of guise, 256 px": ("256 px", "network"),
        "256 px, fitted": ("256 px, fitted", "network"),
        "published VUNet's own images": ("guise", "reference"),
        "copy of the source": ("guise", "copy_source"),
        "mean image": ("guise", "mean_image"),
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_figures_of_pairs_are_those_of_the_reports(name):
    page = (ROOT / "docs/real_data.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / f"benchmarks/results/real-vunet-{name}.json").read_text())
    heading, rows = PAIRS[name]
    section = page.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    for title, (variant, part) in rows.items():
        (line,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", section, re.MULTILINE)
        scores = report[variant][part]
        values = [
            scores["nearest_target"],
            *(scores[k]["mean"] for k in ("gradient", "l1", "ssim")),
        ]
        for cell, value in zip(line.split(" | "), values, strict=True):
            assert equal_as_written(cell, value), f"{title} {value:.4g}"


def test_figures_of_students_are_those_of_the_benchmarks():
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    section = page.partition("### Students of one person\n")[2].partition("\n## ")[0]
    report = json.loads((ROOT / "benchmarks/results/inference-students-cpu.json").read_text())
    (ways,) = (row["ways"] for row in report["rows"] if row["batch"] == 1)
    assert report["machine"]["threads"] == 1
    rows = re.findall(r"^\| (published|`Driver`|student.*?) \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == 5
    for title, cells in rows:
        part = re.search(r"\d/\d", title)
        name = f"student {part[0]}" if part else title.strip("`").lower()
        for precision, cell in zip(("fp32", "bf16"), cells.split(" | "), strict=False):
            if numbers := re.findall(r"[\d.]+", cell):
                way = ways[f"{name} {precision}"]
                assert equal_as_written(numbers[0], way["processor_ms"]), title
                assert len(numbers) == 1 or equal_as_written(numbers[1], way["of_driver"]), title
    said = re.search(r"takes ([\d.]+) ms \(fp32\) and ([\d.]+) ms\s+\(bf16\)", section)
    for number, precision, driver in zip(said.groups(), ("fp32", "bf16"), (38, 22), strict=True):
        estimate = driver * ways[f"student 1/2 {precision}"]["of_driver"]
        assert equal_as_written(number, estimate)

    page = (ROOT / "docs/bilayer.md").read_text(encoding="utf-8")
    section = page.partition("## A faster network of one person\n")[2].partition("\n## ")[0]
    report = json.loads((ROOT / "benchmarks/results/distil.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (.+?) \| ([-\d.]*)\s*\| ([-\d.]+) \| ([-\d.]+) \|$", section, re.M)
    keys = ("masked_l1", "l1_to_teacher", "psnr_to_teacher", "r_mouth", "r_lids")
    for (title, *cells), key in zip(rows, keys, strict=True):
        for cell, way in zip(cells, ("teacher", "half", "still"), strict=True):
            value = report["ways"][way].get(key)
            assert (value is None) == (not cell), title
            assert value is None or equal_as_written(cell, value), f"{title}, {way}: {value:.4g}"
    long = json.loads((ROOT / "benchmarks/results/distil-3000.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| ([^|]+) \| ([-\d.]*)\s*\| ([-\d.]+) \|$", section, re.M)
    for (title, *cells), key in zip(rows, keys, strict=True):
        for cell, way in zip(cells, ("teacher", "half"), strict=True):
            value = long["ways"][way].get(key)
            assert (value is None) == (not cell), title
            assert value is None or equal_as_written(cell, value), f"{title}, {way}: {value:.4g}"
    assert long["steps"] == parser("").get_default("num_steps") == 3000
    assert equal_as_written(
        re.search(r"in (\d+) s of one", section)[1], long["ways"]["half"]["processor_s"]
    )
    count, steps, seconds = (
        re.search(text, section)[1]
        for text in (r"of (\d+) persons", r"(\d+) steps took", r"about (\d+) s of one")
    )
    assert (int(count), int(steps)) == (report["persons"], report["steps"])
    assert equal_as_written(seconds, report["ways"]["half"]["processor_s"])


REAL_DCIGN = {  # row of docs/real_data.md -> part and score of the report, {} the factor
    "error of the changed latent over copying": ("rerender {}", "ratio_to_copy"),
    "the same over the mean image": ("rerender {}", "ratio_to_mean"),
    "MSE, changed latent": ("rerender {}", "made_mse"),
    "MSE, copying": ("rerender {}", "copy_mse"),
    "MSE, unchanged": ("rerender {}", "unchanged_mse"),
    "MSE, mean": ("rerender {}", "mean_mse"),
    "MSE, the target's own reconstruction": ("rerender {}", "own_mse"),
    "multiple correlation of factor and own latents, within": ("correlation", "{}_within"),
    "the same, over all images": ("correlation", "{}_pooled"),
    "R^2 of the factor from its own latents": ("decoding", "{}_own"),
    "R^2 of the factor from all other latents": ("decoding", "{}_others"),
    "FactorVAE score (chance 0.5)": ("factor_vae", "accuracy"),
    "BetaVAE score (chance 0.5)": ("beta_vae", "accuracy"),
}


def test_figures_of_dcign_on_real_data_are_those_of_the_benchmark():
    page = (ROOT / "docs/real_data.md").read_text(encoding="utf-8")
    section = page.partition("\n## DC-IGN\n")[2].partition("\n## ")[0]
    reports = {
        factor: json.loads((ROOT / f"benchmarks/results/real-dcign-{name}.json").read_text())
        for name, factor in (("yale_light", "light"), ("coil_azimuth", "azimuth"))
    }
    for title, (part, score) in REAL_DCIGN.items():
        (cells,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", section, re.MULTILINE)
        for cell, (factor, report) in zip(cells.split(" | "), reports.items(), strict=True):
            value = report["mean"][part.format(factor)][score.format(factor)]
            assert equal_as_written(cell, value), f"{title}, {factor}: {value:.4g}"


def test_figures_of_dcigns_weights_are_those_of_their_report():
    page = (ROOT / "docs/dcign.md").read_text(encoding="utf-8")
    section = page.partition("\n## The weights that come with guise\n")[2].partition("\n## ")[0]
    scores = json.loads((ROOT / "nets/trained/dcign.json").read_text(encoding="utf-8"))
    rows = {
        "abs(r) of factor and own latent, within batches": ("correlation", "{}_within"),
        "abs(r), over all test images": ("correlation", "{}_pooled"),
        "R^2 of the factor from all other latents": ("decoding", "{}_others"),
    }
    for number, factor in enumerate(("azimuth", "elevation", "light")):
        for title, (part, name) in rows.items():
            (cells,) = re.findall(rf"^\| {re.escape(title)} \| (.*) \|$", section, re.MULTILINE)
            value = abs(scores[part][name.format(factor)])
            assert equal_as_written(cells.split(" | ")[number], value), f"{title}, {factor}"
        (cells,) = re.findall(r"^\| re-rendering error over copying \| (.*) \|$", section, re.M)
        ratio = scores[f"rerender {factor}"]["ratio_to_copy"]
        assert equal_as_written(cells.split(" | ")[number], ratio), factor
    own = re.search(r"already has ([\d.]+) and ([\d.]+) of the error", section).groups()
    for number, factor in zip(own, ("azimuth", "light"), strict=True):
        part = scores[f"rerender {factor}"]
        assert equal_as_written(number, part["own_mse"] / part["copy_mse"])
    both, shape = re.search(r"at once: ([\d.]+) of .*shape: ([\d.]+)\.", section).groups()
    assert equal_as_written(both, scores["rerender azimuth+light"]["ratio_to_copy"])
    assert equal_as_written(shape, scores["swap"]["ratio_to_copy"])


def test_figures_of_the_avatars_weights_are_those_of_their_report():
    page = (ROOT / "docs/bilayer.md").read_text(encoding="utf-8")
    section = page.partition("\n## The weights that come with guise\n")[2].partition("\n## ")[0]
    report = json.loads((ROOT / "nets/trained/bilayer.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d. ]*)\| ([-\d. ]*)\|$", section, re.MULTILINE)
    heads, cross, openings = report["heads"], report["cross"], report["openings"]
    azimuth = report["azimuth"]
    values = [
        (heads["masked_l1"], heads["masked_l1_low_frequency"], heads["masked_l1_copy_source"]),
        (heads["features_l1"], heads["features_l1_low_frequency"],
         heads["features_l1_copy_source"]),
        (cross["masked_l1"], None, cross["masked_l1_copy_source"]),
        (azimuth["driven"], None, azimuth["copy_source"]),
        (heads["mask_iou"], None, None),
        *((openings[k]["driven"], None, openings[k]["copy_source"]) for k in ("mouth", "lids")),
    ]  # fmt: skip
    for (title, *cells), expected in zip(rows, values, strict=True):
        for cell, value in zip(cells, expected, strict=True):
            value = value["mean"] if isinstance(value, dict) else value
            assert (value is None) == (not cell.strip()), title
            assert value is None or equal_as_written(cell.strip(), value), title
    ratio = re.search(r"masked L1 is ([\d.]+) of copying", section)[1]
    assert equal_as_written(ratio, heads["ratio_to_copy_source"])


def test_figures_of_operators_are_those_of_the_benchmark():
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "benchmarks/results/ops-cpu.json").read_text(encoding="utf-8"))
    measured = {row["name"]: row for row in results["rows"]}
    section = page.partition("## Operators\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`(?:, ([a-z]+))?(?:, .*?)? \|(.*)\|$", section, re.MULTILINE)
    assert len(rows) >= 15
    for name, kind, cells in rows:
        row = measured[f"{name} {kind}" if kind else name]
        cells = cells.split("|")
        forward = len(cells) == 5
        times = row["forward" if forward else "backward"]
        columns = ("ours", "floor", "formula", "compiled") if forward else (
            "ours", "formula", "compiled")  # fmt: skip
        for column, cell in zip(columns, cells, strict=False):
            value = row["floor"] if column == "floor" else times.get(column)
            shown = cell.strip()
            assert bool(shown) == (value is not None), f"{name} {kind}: {column}"
            assert not shown or equal_as_written(shown, value), f"{name} {kind}: {column} {value}"
        if forward and (other := re.match(r" *([\d.]+) (.+?) *$", cells[4])):
            assert equal_as_written(other[1], times[other[2]]), f"{name} {kind}: {times[other[2]]}"


def test_limits_of_cuda_kernels_are_those_of_the_model():
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    section = page.partition("## CUDA kernels: limits from their code\n")[2].partition("\n## ")[0]
    report = json.loads((ROOT / "benchmarks/results/sass.json").read_text(encoding="utf-8"))
    models = {
        (f"`{row['name']}`, {row['size']}", row["gpu"], row["dtype"]): row for row in report["rows"]
    }
    rows = re.findall(r"^\| (`.+?) \| (\w+) \| (\w+) \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == 12
    columns = ("pixels", "registers", "instructions", "issue_us", "memory_us")
    for size, gpu, dtype, cells in rows:
        for column, cell in zip(columns, cells.split(" | "), strict=True):
            value = models[size, gpu, dtype][column]
            assert equal_as_written(cell, value), f"{size}, {gpu}, {dtype}: {column} {value}"
        half, other = (models[size, gpu, t]["instructions"] for t in ("float16", "bfloat16"))
        assert abs(other - half) < 0.01 * half
    assert not any(row["spills"] for row in report["rows"])


def test_figures_of_int8_are_those_of_the_benchmark():
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8").partition("## Int8\n")[2]
    report = json.loads((ROOT / "benchmarks/results/export-cpu.json").read_text(encoding="utf-8"))
    measured = report["int8_quality"]
    rows = re.findall(r"^\| (float32|int8, (\w+)) \|(.*)\|$", page, re.MULTILINE)
    assert len(rows) == 3
    columns = ("masked L1 to the truth", "L1 to float", "PSNR to float, dB")
    for _, kind, cells in rows:
        for column, cell in zip(columns, cells.split("|"), strict=True):
            value = measured.get(f"{kind} int8, {column}" if kind else f"float, {column}")
            assert bool(cell.strip()) == (value is not None)
            assert value is None or equal_as_written(cell.strip(), value), f"{kind}: {column}"


def test_speeds_of_exported_files_are_those_of_the_benchmark():
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8").partition("## Speed\n")[2]
    report = json.loads((ROOT / "benchmarks/results/export-cpu.json").read_text(encoding="utf-8"))
    names = {"PyTorch, as `infer.py` calls it": "torch", "`.onnx` by onnxruntime": "onnxruntime",
             "`.pt2` by AOTInductor": "aoti", "`.onnx`, int8, static": "static int8",
             "`.onnx`, int8, dynamic": "dynamic int8"}  # fmt: skip
    lines = re.findall(r"^\| ([^|]+?) \| (\d[^|]*)\|([^|]*)\|([^|]*)\|$", page, re.MULTILINE)
    assert [name for name, *_ in lines] == [*names]
    for name, *cells in lines:
        for cell, row in zip(cells, report["rows"], strict=True):
            way = row["ways"].get(names[name])
            shown = re.fullmatch(r" *(\d+)(?: \(([\d.]+)x\))? *", cell)
            assert bool(shown) == (way is not None), f"{name}: {cell}"
            if shown and way:
                assert equal_as_written(shown[1], way["ms"])
                assert (shown[2] is None) == (names[name] == "torch")
                assert shown[2] is None or equal_as_written(shown[2], way["times_torch"])
    folded = report["rows"][0]["ways"]
    for ms, way in re.findall(r"(\d+) ms by (\w+)", page):
        assert equal_as_written(ms, folded[f"folded {way.replace('AOTInductor', 'aoti')}"]["ms"])


def test_figures_of_the_browser_are_those_of_the_benchmark():
    page = (ROOT / "docs/web.md").read_text(encoding="utf-8").partition("## Speed\n")[2]
    ways = json.loads((ROOT / "benchmarks/results/web-cpu.json").read_text("utf-8"))["ways"]
    rows = re.findall(r"^\| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [threads for threads, *_ in rows] == ["1", "2"]
    for threads, ms, rate, python in rows:
        wasm = ways[f"wasm, threads: {threads}"]
        assert equal_as_written(ms, wasm["ms"])
        assert equal_as_written(rate, wasm["frames_per_second"])
        assert equal_as_written(python, ways[f"Python, threads: {threads}"]["ms"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_table_has_as_many_cells_as_its_heading(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        heading, *rows = table.splitlines()
        assert len(rows) >= 2, heading
        for row in rows:
            assert row.count("|") == heading.count("|"), row


LEARNING = {  # what a page writes -> its place in benchmarks/results/learning-SYSTEM.json
    "vunet": {
        "| masked L1, range 0 to 1 | 0.092 |": "transfer masked_l1 mean",
        "0.214 |": "transfer masked_l1_copy_source mean",
        "| 0.187 |": "transfer masked_l1_mean_image mean",
        "| ratio to the better baseline | 0.49 |": "transfer ratio_to_best_baseline",
        "L1 0.164": "reconstruction l1 mean",
        "SSIM 0.41": "reconstruction ssim mean",
    },
    "landmarks": {
        "side | 0.041 |": "regression error",
        "| 0.133, the mean pose": "regression error_mean_pose",
        "| mask IoU | 0.69 |": "mask iou mean",
        "masked L1 | 0.081 |": "background masked_l1 mean",
        "| 0.170, the mean image": "background masked_l1_mean_image mean",
        "| 0.107, the mean of the clip": "background masked_l1_clip_mean mean",
        "| 0.042;": "reconstruction l1 mean",
        "0.143 |": "reconstruction l1_person mean",
    },
    "bilayer": {
        "range 0 to 1 | 0.066 |": "heads masked_l1 mean",
        "| 0.068 |": "heads masked_l1_low_frequency mean",
        "| 0.098 |": "heads masked_l1_copy_source mean",
        "mouth | 0.065 |": "heads features_l1 mean",
        "| 0.074 | 0.143 |": "heads features_l1_low_frequency mean",
        "| 0.143 |": "heads features_l1_copy_source mean",
        "another person | 0.068 |": "cross masked_l1 mean",
        "| 0.100 |": "cross masked_l1_copy_source mean",
        "degrees | 4.1 |": "azimuth driven mean",
        "| 34.1 |": "azimuth copy_source mean",
        "| mask IoU | 0.956 |": "heads mask_iou mean",
        "another person | 0.11 |": "openings mouth driven",
        "copying is missed, 0.67": "heads ratio_to_copy_source",
    },
    "dcign": {
        "within batches | 0.99 |": "correlation azimuth_within",
        "test images | 0.98 |": "correlation azimuth_pooled",
        "| 0.24 |": "correlation elevation_pooled",
        "over copying | 0.50 |": "rerender azimuth|ratio_to_copy",
        "| 0.75 |": "rerender elevation|ratio_to_copy",
        "| 0.67 |": "rerender light|ratio_to_copy",
        "other latents | 0.94 |": "decoding azimuth_others",
        "| 0.65 |": "decoding elevation_others",
        "| 0.85 |": "decoding light_others",
        "at once: 0.44": "rerender azimuth+light|ratio_to_copy",
        "shape: 0.41": "swap ratio_to_copy",
    },
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_of_a_demo_are_those_of_the_benchmark(system):
    page = (ROOT / f"docs/{system}.md").read_text(encoding="utf-8")
    section = " ".join(
        page.partition("## What the demo reaches\n")[2].partition("\n## ")[0].split()
    )
    file = ROOT / f"benchmarks/results/learning-{system}.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["bars_missed"] == 0
    for text, place in LEARNING[system].items():
        assert text in section, text
        value = report
        for key in place.split("|") if "|" in place else place.split():
            value = value[key]
        assert equal_as_written(re.findall(r"\d\d?\.\d+", text)[0], value), f"{text}: {value:.4g}"


# Options of other programs, and of the small commands `python -m nets...` and benchmarks/*.py.
FOREIGN = {
    "--check", "--dist", "--dry-run", "--max-restarts", "--no-build-isolation", "--no-deps",
    "--nproc_per_node", "--tags", "--dataset_dir", "--set_name", "--output_dir", "--heads",
    "--folder", "--trained", "--torch7", "--only", "--local-rank", "--bsize", "--imwidth",
    "--Werror", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--download",
    "--persons", "--poses", "--clips", "--videos", "--batches", "--prefix", "--students", "--write",
}  # fmt: skip


@pytest.fixture(scope="module")
def options_of_scripts():
    """Every option of every script: shown, published, and by its earlier names."""
    known = set(re.findall(r'"(--\w+)"', (ROOT / "extract.py").read_text(encoding="utf-8")))
    parsers = [importlib.import_module(f"nets.{s}.options").parser("") for s in systems.SYSTEMS]
    for script, part in (("infer", "infer"), ("evaluate", "evaluate")):
        parser = importlib.import_module(script).parser()
        systems.add_options(parser, part)
        parsers.append(parser)
    parsers += [importlib.import_module(script).parser() for script in ("export", "app")]
    parsers.append(importlib.import_module("nets.bilayer.distil").parser(""))
    for parser in parsers:
        known |= {name for action in parser._actions for name in action.option_strings}
        known |= {f"--{name}" for name in parser.renamed}
    return known | {"--help", "--help_published"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page, options_of_scripts):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]+", text))
    assert not named - options_of_scripts - FOREIGN


def test_figures_of_landmarks_on_real_clips_are_those_of_the_report():
    page = (ROOT / "docs/real_data.md").read_text(encoding="utf-8")
    section = page.partition("\n## Landmarks\n")[2].partition("\n## ")[0]
    file = ROOT / "benchmarks/results/real-landmarks-weizmann.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    scores, spread, mask = report["reconstruction"], report["spread"], report["mask"]
    rows = re.findall(r"^\| L1.*? \| ([\d.]+) \| ([\d.]+) \|$", section, re.MULTILINE)
    names = ("l1", "ratio_to_copy", "ratio_to_mean_image")
    for cells, name in zip(rows, names, strict=True):
        for cell, key in zip(cells, (name, f"{name}_moving"), strict=True):
            value = scores[key]["mean"] if name == "l1" else scores[key]
            assert equal_as_written(cell, value), key
    said = re.search(
        r"covers (\d+) %.*? IoU of ([\d.]+)\s.*? over ([\d.]+) of the side.*? over ([\d.]+)\.\s"
        r"(\d+) % of the landmarks", section, re.DOTALL,
    )  # fmt: skip
    values = (100 * mask["recall"]["mean"], mask["iou"]["mean"], spread["landmarks"]["mean"],
              spread["pixels"]["mean"], 100 * spread["inside"]["mean"])  # fmt: skip
    for text, value in zip(said.groups(), values, strict=True):
        assert equal_as_written(text, value), value


def test_figures_of_head_avatars_on_real_clips_are_those_of_the_benchmark():
    page = (ROOT / "docs/real_data.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / "benchmarks/results/real-avatars.json").read_text())
    starts = [report["demo world, seed 0"], report["untrained, seed 0"]]

    def row(name, values):
        assert f"| {name} | {' | '.join(values)} |" in page, (name, values)

    for part in ("seen", "unseen"):
        scores = [start[part]["self"] for start in starts]
        row(
            f"{part}: L1 over copying",
            [f"{s[part]['l1_over_copying']:.2f}" for s in starts] + ["1"],
        )
        for name, key, digits in (("SSIM", "ssim", 3), ("keypoint error, pixels", "akd", 2)):
            means = [s[key]["mean"] for s in scores] + [scores[0][f"{key}_copy_source"]["mean"]]
            row(f"{part}: {name}", [f"{mean:.{digits}f}" for mean in means])
    fitted = json.loads((ROOT / "benchmarks/results/real-avatars-fitted.json").read_text())
    trained, given = fitted["demo world, seed 0"], fitted["demo world, as it is"]
    for part in ("seen", "unseen"):
        four = [own[f"{part}{way}"] for own in (trained, given) for way in (", fitted", "")]
        row(f"{part}: L1 over copying", [f"{s['l1_over_copying']:.2f}" for s in four] + ["1"])
        for name, key, digits in (("SSIM", "ssim", 3), ("keypoint error, pixels", "akd", 2)):
            means = [s["self"][key]["mean"] for s in four]
            means.append(four[0]["self"][f"{key}_copy_source"]["mean"])
            row(f"{part}: {name}", [f"{mean:.{digits}f}" for mean in means])
    more = json.loads((ROOT / "benchmarks/results/real-avatars-mobilenet.json").read_text())
    parts = [more["demo world, seed 0"][part] for part in ("seen", "unseen")]
    row("L1 over copying", [f"{part['l1_over_copying']:.2f}" for part in parts])
    for name, key, digits in (("SSIM", "ssim", 3), ("keypoint error, pixels", "akd", 2)):
        row(name, [f"{part['self'][key]['mean']:.{digits}f}" for part in parts])
    cross = [start["unseen"]["cross"] for start in starts]
    poses = [c["pose"]["mean"] for c in cross] + [cross[0]["pose_copy_source"]["mean"]]
    row("unseen, driven by another person: error of the pose, degrees", [f"{p:.1f}" for p in poses])
    counts = [report[key] for key in ("persons_seen", "train", "seen", "persons_unseen", "unseen")]
    found = re.search(
        r"(\d+) persons are\s+trained on.*?\((\d+) frames\).*?(\d+) frames\).*? (\d+)\s+persons "
        r"\(\*unseen\*, (\d+) frames\)", page, re.DOTALL,
    )  # fmt: skip
    assert found and [int(number) for number in found.groups()] == counts
