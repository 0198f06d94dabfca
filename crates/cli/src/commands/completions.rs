//! `evertide completions`

use clap::CommandFactory;

use crate::{
    args::{Cli, CompletionsArgs},
    output,
};

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "evertide", &mut script);
    output::print(&script)
}
