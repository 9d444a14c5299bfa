"""`srpo-ray init`: write a project folder with a config, prompts, a sweep and a cluster file."""

import argparse
from pathlib import Path

HELP = "write a project folder with a config, prompts, a sweep and a cluster file"
DEFAULT = "small_world"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `init`."""
    parser.add_argument("folder", metavar="DIR", help="new or empty folder; its name becomes the name of the run")
    parser.add_argument(
        "--template", default=DEFAULT, metavar="NAME", help=f"template (default {DEFAULT}); --list prints all"
    )
    parser.add_argument("--list", action=_ListTemplates, nargs=0, help="print the templates and exit")


def run(parsed: argparse.Namespace) -> int:
    """Write the folder, and print its files and the next commands."""
    from srpo_ray.project.create import create_project
    from srpo_ray.project.templates import find_template

    folder = Path(parsed.folder)
    files = create_project(folder, parsed.template)
    template = find_template(parsed.template)
    configs = " ".join(template.config_files)
    print(f"{folder}: {', '.join(map(str, files))}\nnext:")
    if folder.resolve() != Path.cwd():
        print(f"  cd {folder}")
    if template.gpu is None:
        print(f"  srpo-ray train {configs}\n  srpo-ray sweep sweep.yaml")
    else:
        print(f"  srpo-ray plan {configs} --gpu {template.gpu}")
    print("README.md in the folder has the other commands")
    return 0


class _ListTemplates(argparse.Action):
    """Option that prints the templates instead of a run of the command, as `--help` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from srpo_ray.project.create import template_list

        print(template_list())
        parser.exit()
