//! `evertide generate-blueprint-config`

use std::path::Path;

use crate::{args::BlueprintArgs, output};

pub(crate) fn blueprint(args: &BlueprintArgs) -> anyhow::Result<()> {
    let text = evertide_server::blueprint();
    if args.output == Path::new("-") {
        return output::print(text.as_bytes());
    }
    // It will hold credentials.
    super::write_new(&args.output, text.as_bytes())?;
    output::line(format!(
        "wrote {}: fill in the placeholders, then store it with\n  \
         evertide insert-config --age-key age.key --db app.db --file {0}",
        args.output.display()
    ))
}
