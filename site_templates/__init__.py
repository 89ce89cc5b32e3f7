"""Pages, partials, style sheets and scripts of a site: data for `sitegen.write`, no code in Python."""
