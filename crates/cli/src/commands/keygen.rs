//! `evertide keygen`

use evertide_vault::AgeKeyFile;

use crate::{args::KeygenArgs, output};

pub(crate) fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    let public_key = AgeKeyFile::new(&args.output).generate()?;
    output::complain(&format!(
        "wrote {}, readable by its owner alone; keep a copy away from this machine",
        args.output.display()
    ));
    output::line(public_key)
}
