require("express")().get("/", (request, response) => response.send("ok")).listen(8080);
