"""The published claims that this project tests, a file each, and what several of them share."""

from implicit_accel.claims.collection import Collection, Recollection, Row

RECOLLECTIONS = (
    Recollection(
        "That the paper ran its regressions on the Ethanol problem; its follow-up is read, and "
        "names data set and size.",
        ("P0", "P1", "P2", "P3a", "P3b", "P4a", "P4b", "P5a", "P5b"),
        "Every speed-up's size: each claim shows other problems as well. P8 looks for the problem "
        "that the authors' figure shows.",
    ),
    Recollection(
        "Near-zero starts with standard deviation 0.01, and identity starts as that plus 1 on the "
        "diagonals.",
        ("P0", "P1", "P2", "P3a", "P3b", "P4a", "P4b", "P5a", "P5b"),
        "How long networks stay near zero, and with it what depth costs early on (T4).",
    ),
    Recollection(
        "Each model at the best of {1e-5, 5e-5, …, 1e-1, 5e-1}.",
        ("P0", "P3a", "P3b", "P4a", "P5a", "P6", "P8"),
        "Little for P0 and P3, whose rates are searched for as well; P4a's AdaDelta, which would "
        "do better at higher rates; P8's distances at the paper's rates.",
    ),
    Recollection(
        "Rate 1e-3 for the emulation by the rule; wide networks among those whose width does not "
        "matter.",
        ("P1", "P2"),
        "P1 shows how the rule and the network part as the rate shrinks; P2 three kinds of start.",
    ),
    Recollection(
        "That Adam beats overparameterised gradient descent, and Adam with depth beats Adam.",
        ("P4b",),
        "The claim itself.",
    ),
    Recollection(
        "That depth 4 first moves after about 65,000 iterations and depth 8 not within 100,000, "
        "and that identity starts move at once.",
        ("P5a", "P5b"),
        "The claims themselves; for which loss and rate is not remembered.",
    ),
    Recollection(
        "The closed curve of the proof: rays between two radii and two arcs.",
        ("P7",),
        "Nothing: any closed curve with a non-zero integral proves the claim.",
    ),
    Recollection(
        "Optimizers' other settings: their framework's defaults.",
        ("P4a", "P4b"),
        "AdaGrad's and AdaDelta's speed; P4a shows those of two frameworks.",
    ),
)

SPEED_UP = "speed-up to the common target"
STUDENT = "the student project's setting"
CHOSEN = {"choice": "as chosen"}

COLLECTION = Collection(
    title="When does depth accelerate? The claims and what became of them",
    sources={
        "P": "Arora, Cohen & Hazan 2018",
        "F": "Arora et al. 2019",
        "S": "Levy & Wang 2024",
        "R": "this project's question",
        "C": "this project's question",
        "N": "this project's question",
        "M": "this project's question",
        "H": "this project's question",
        "T": "this project's theory",
    },
    questions={
        "What does the loss do?": ("loss", ("P0", "P3a", "P3b", "P8", "S1", "S4", "S7")),
        "What does the initialisation do?": (
            "initialisation", ("P5a", "P5b", "F1", "F2", "F3", "S2")
        ),
        "What does the optimizer do?": ("optimizer", ("P4a", "P4b", "R1", "S3")),
        "What about classes, mini-batches, several outputs and held-out rows?": (
            "other settings", ("C1", "N1", "M1", "H1")
        ),
        "What about non-linear networks?": ("non-linear networks", ("P6", "F4", "S5", "S6")),
        "What does theory say?": (
            "theory", ("P1", "P2", "P7", *(f"T{n}" for n in range(1, 14) if n != 10))
        ),
    },
    recollections=RECOLLECTIONS,
    picture=(
        Row("ℓ2, depth 2", "P3a", "slow-down at stable rates", {"depth": 2, **CHOSEN}, True),
        Row("ℓ4, depth 2", "P0", "speed-up at stable rates", {"depth": 2, **CHOSEN}),
        Row(
            "ℓ4, depth 2, a million steps, paper's rates", "P3b", "speed-up at stable rates",
            {"depth": 2, "choice": "at the horizon, learning rates of the paper's grid"},
        ),
        Row(
            "ℓ4, one layer with a warm-up", "R1", "speed-up over one layer at a constant rate",
            {"p": 4.0, "method": "warm-up, 300 steps", "depth": 1},
        ),
        Row(f"{STUDENT}, depth 2", "S7", SPEED_UP, {"station": STUDENT, "depth": 2}),
    ),
)  # fmt: skip
