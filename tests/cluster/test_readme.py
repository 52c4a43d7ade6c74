"""What cluster/README.md names exists, and its sums are right."""

import re

from tests.cluster.overlays import CLUSTER, OVERLAYS, ROOT

README = (CLUSTER / "README.md").read_text("utf-8")
PARAMETERS = 7_241_732_096  # of Mistral-7B
GB = 1e9


def test_links_lead_somewhere():
    targets = [
        target.partition("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", README)
        if not target.startswith("http")
    ]
    assert len(targets) > 5
    assert [target for target in targets if not (CLUSTER / target).exists()] == []


def test_commands_name_what_exists():
    paths = set(re.findall(r"(?<![\w/])((?:cluster|examples/data)/[\w./-]+)", README))
    assert {f"cluster/overlays/{name}" for name in ("dev", "mine")} <= paths
    own = {path for path in paths if path.startswith("cluster/overlays/mine")}
    assert [path for path in sorted(paths - own) if not (ROOT / path).exists()] == []


def test_the_operator_is_installed_where_policies_let_it_in():
    policy = (CLUSTER / "base" / "network.yaml").read_text("utf-8")
    (namespace,) = re.findall(r"kubernetes.io/metadata.name: (\S+)", policy)
    assert f"kuberay/kuberay-operator --version 1.7.0 \\\n  --namespace {namespace} " in README


def test_the_tree_has_every_folder():
    (tree,) = re.findall(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^(\S+)/ ", tree, re.MULTILINE))
    folders = {
        str(path.parent.relative_to(CLUSTER)) for path in CLUSTER.rglob("kustomization.yaml")
    }
    assert named == folders | {"examples"}
    assert {f"overlays/{name}" for name in OVERLAYS} <= named


def test_credentials_are_made_not_written():
    example = (CLUSTER / "base" / "storage.env.example").read_text("utf-8")
    keys = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert set(keys.values()) == {""}
    made = dict(re.findall(r"--from-literal=([A-Z_]+)=(\S+)", README))
    assert set(made) == set(keys)
    assert made["AWS_SECRET_ACCESS_KEY"] == '"$(openssl'
    assert "storage.env\n" in (ROOT / ".gitignore").read_text("utf-8")


def cells(start):
    """Cells of the row of a table that starts with this."""
    (row,) = re.findall(rf"^\| \**{re.escape(start)}.*$", README, re.MULTILINE)
    return [cell.strip(" *") for cell in row.strip("|").split("|")]


def test_the_memory_of_a_large_decoder_adds_up():
    lora = 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    injection = 64 * 8192 + 8192 * 8 * 4096
    trained = lora + injection + 110e6
    frozen = PARAMETERS * 2 / GB
    states = trained * 24 / GB
    tokens = 8 * 512
    work = [32 * tokens * 4096 * 2 / GB, 34 * 1.5 * tokens * 4096 / GB, tokens * 32768 * 10 / GB, 2]
    assert f"= {lora / 1e6:.0f} million" in cells("trained: LoRA")[1]
    assert f"= {injection / 1e6:.0f} million" in cells("trained: injection")[1]
    assert f"{trained / 1e6:.0f} million" in cells("their weights")[1]
    shown = [
        cells(start)[2]
        for start in ("frozen weights", "their", "inputs", "one layer", "scores", "CUDA")
    ]
    assert shown == [*(f"{gb:.1f}" for gb in (frozen, states, *work[:3])), "2"]
    total = frozen + states + sum(work)
    assert cells("together")[2] == f"{total:.1f}"
    each = [trained * bytes_each / GB for bytes_each in (4, 4, 16)]
    for stage in range(4):
        # Weights, gradients, moments and averages: the last `stage` of them are shared out.
        shared = sum(each[3 - stage :]) + (frozen if stage == 3 else 0)
        sums = [total - shared + shared / num for num in (2, 4, 8)]
        assert cells(f"{stage} |")[3:] == [f"{gb:.1f}" for gb in sums]


def test_the_price_of_a_large_decoder_is_right():
    for name, peak in (("A100", 312e12), ("H100", 989e12)):
        _, hours, price, cost = cells(f"{name} 80 GB")
        rate = 0.4 * peak / (6 * PARAMETERS)
        assert f"{round(rate, -2):,.0f}" in README
        assert hours == f"{50e6 / rate / 3600:.1f}"
        low, high = (float(each) for each in re.findall(r"\$([\d.]+)", price))
        assert cost == f"${50e6 / rate / 3600 * low:.0f} to ${50e6 / rate / 3600 * high:.0f}"
