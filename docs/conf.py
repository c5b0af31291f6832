"""The documentation site: sphinx-build -W --keep-going -b html docs build/docs.

Nothing in a page is fetched from elsewhere: formulas are MathML, fonts and scripts are the theme's
own copies.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import os
import re
import sys
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

import implicit_accel

project = "implicit_accel"
author = "the implicit_accel authors"
version = release = implicit_accel.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["build", "**.ipynb_checkpoints", "jupyter_execute"]

# --- Pages ---------------------------------------------------------------------------------------

# A dollar sign is a dollar sign: formulas are written as {math}.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Tutorials are run afresh at every build, so that what they show is what the library does.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "warn"
nb_merge_streams = True
# As in the tests, a user's cache of programs has no part in what is shown.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Nor have XLA's remarks on how long a busy machine took to compile.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

# --- The reference, from docstrings --------------------------------------------------------------

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
autosummary_generate = False
nitpicky = True
# Other projects' names, which are no part of these pages.
nitpick_ignore_regex = [
    ("py:.*", r"(np|numpy|xr|xarray|pd|pandas|jax|optax|matplotlib|pathlib|collections)(\..*)?"),
    # The parts of jaxtyping's annotations: Float[ndarray, 'n d'].
    ("py:class", r"(jaxtyping\.)?(Bool|Float|Int|Num)\b.*|ndarray|jaxlib\..*|'.*"),
]

# --- Looks ---------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "implicit_accel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"index": []}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
copyright = "the implicit_accel authors, MIT licence"


# --- Names in docstrings -------------------------------------------------------------------------


def _link(app: Sphinx, env: Any, node: Any, shown: nodes.Node) -> nodes.Node | None:
    """Where a name in a docstring leads that is not written out from the package on.

    It is the one documented object that ends so. What is there but has no entry in the reference
    stays text; a name that leads nowhere is left to Sphinx, which warns of it.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removeprefix(f"{project}.")
    documented = env.domains["py"].objects
    names = [n for n in documented if n.endswith(f".{target}") and n.startswith(project)]
    if names:
        # Of an object under two names the public one, which is the shorter.
        name = min(names, key=lambda n: (documented[n].aliased, n.count("."), n))
        place = documented[name]
        return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, shown, name)
    modules = [m for n, m in sys.modules.items() if n.partition(".")[0] == project]
    return shown if any(_has(module, target) for module in modules) else None


def _has(module: Any, name: str) -> bool:
    try:
        operator.attrgetter(name)(module)
    except AttributeError:
        return False
    return True


def _skip(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:  # noqa: ARG001
    """Leaves out a named tuple's fields, which the class's docstring describes."""
    return True if isinstance(member, _FIELD) else None


_FIELD = type(implicit_accel.linear.Layers.weights)


def _signature(
    app: Sphinx,  # noqa: ARG001
    what: str,  # noqa: ARG001
    name: str,  # noqa: ARG001
    documented: Any,
    options: Any,  # noqa: ARG001
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """A data class's fields with their short defaults; their types follow in its attributes."""
    if not (isinstance(documented, type) and dataclasses.is_dataclass(documented)):
        return signature, returned
    fields = inspect.signature(documented).parameters.values()
    return f"({', '.join(map(_shown, fields))})", None


def _shown(field: inspect.Parameter) -> str:
    if field.default is field.empty:
        return field.name
    default = repr(field.default)
    return f"{field.name}={default if re.fullmatch(_PLAIN, default) else '...'}"


_PLAIN = r"[\w.'()-]{1,12}"


# --- Formulas ------------------------------------------------------------------------------------


def _inline_formula(page: Any, node: nodes.math) -> None:
    page.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _formula(page: Any, node: nodes.math_block) -> None:
    formula = tex2mathml(node.astext(), as_block=True)
    page.body.append(f'<div class="formula" tabindex="0">{formula}</div>\n')
    raise nodes.SkipNode


# --- For screen readers and keyboards ------------------------------------------------------------

# Sphinx sets a signature of several lines as a list of definitions without terms. The theme has a
# translator of its own: what it wrote is mended rather than how it writes.
_LINES = re.compile(r"<dl>\s*((?:<dd>(?:(?!</?d[dlt]>).)*</dd>\s*)+)</dl>", re.DOTALL)


def _accessible(
    app: Sphinx,  # noqa: ARG001
    pagename: str,  # noqa: ARG001
    templatename: str,  # noqa: ARG001
    context: dict[str, Any],
    doctree: nodes.document | None,  # noqa: ARG001
) -> None:
    """Signatures without lists of nothing; tables, which may scroll, within a keyboard's reach."""

    def lines(found: re.Match[str]) -> str:
        return found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")

    if "body" in context:
        body = _LINES.sub(lines, context["body"])
        context["body"] = body.replace("<table ", '<table tabindex="0" ')


def setup(app: Sphinx) -> None:
    """Links names, and adds formulas as MathML, which browsers show by themselves."""
    app.connect("html-page-context", _accessible)
    app.connect("missing-reference", _link)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))


html_math_renderer = "mathml"
