// Swagger UI fills in the example of every parameter, and so would send another agency's id with each request. What may
// be left out starts out empty; what must be sent keeps its example.
const optionalParametersStartEmpty = () => ({
  statePlugins: {
    spec: {
      wrapSelectors: {
        parameterWithMetaByIdentity:
          (original) =>
          (state, ...rest) => {
            const parameter = original(...rest);
            return parameter.get("required") ? parameter : parameter.delete("example");
          },
      },
    },
  },
});

window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: document.getElementById("swagger-ui").dataset.document,
  validatorUrl: null, // it would be asked on another host
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  docExpansion: "list",
  filter: true,
  persistAuthorization: true,
  plugins: [optionalParametersStartEmpty],
});
