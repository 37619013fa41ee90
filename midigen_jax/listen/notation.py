"""A score as a picture: MusicXML in, one SVG out, by verovio."""

_SCALE = 40  # percent: a staff is about as high as four lines of text

Svg = str


def engrave(musicxml: str, width: int = 1000) -> Svg:
    """All systems of a score below one another, as wide as `width` pixels.

    verovio can be slow on a long score and die of a damaged one: call it in `music.sandbox` for scores that
    may be either. Raises ValueError where verovio reads no score.
    """
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions(
        {
            "scale": _SCALE,
            "pageWidth": round(width * 100 / _SCALE),
            "pageHeight": 60_000,  # the most there is; what is left over goes
            "adjustPageHeight": True,
            "breaks": "auto",
            "footer": "none",
            "header": "none",
            "svgViewBox": True,
            "pageMarginLeft": 80,  # what is written before the first system may reach into it
            "pageMarginRight": 20,
        }
    )
    if not toolkit.loadData(musicxml):
        raise ValueError("verovio reads no score in it")
    return str(toolkit.renderToSVG(1))
