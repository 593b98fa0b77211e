const reference = document.getElementById("reference");
Redoc.init(
  reference.dataset.document,
  {
    nativeScrollbars: true,
    pathInMiddlePanel: true,
    requiredPropsFirst: true,
    theme: { typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } },
  },
  reference,
);
